//! Suggests the known word that is nearest to an unknown one ("did you mean").

/// The most bytes of a word that is compared. The work grows with the square of the length.
const MAX_WORD: usize = 64;

/// The nearest word of `known`, if it is near enough to be the intended one.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_WORD {
        return None;
    }
    let tolerance = (word.chars().count() / 3).max(1);
    let candidates = known.into_iter().map(|candidate| (distance(word, candidate), candidate));
    let (_, nearest) = candidates.filter(|(distance, _)| *distance <= tolerance).min()?;
    Some(nearest)
}

/// The least number of characters to add, remove, replace, or swap with their neighbour, to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let mut best = (above[j] + usize::from(a[i] != b[j])).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in
            [("", "", 0), ("", "ab", 2), ("memory", "memory", 0), ("memroy", "memory", 1), ("memori", "memory", 1)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        let known = ["memory", "tasks", "cpu"];
        assert_eq!(nearest("memroy", known), Some("memory"));
        assert_eq!(nearest("task", known), Some("tasks"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest(&"m".repeat(100_000), known), None);
    }
}
