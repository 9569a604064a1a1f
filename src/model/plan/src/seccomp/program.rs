//! The compiler from rules to classic BPF, and an interpreter of the compiled programs.
//!
//! The compiler writes a program from its end to its start. So the target of a comparison exists before the comparison,
//! and a verdict that was written once is reused. Loading a filter costs as much for each of its instructions as
//! running a tenth of an instruction in every call. So a program should first be small, and then shallow.
//!
//! Danger: a wrong jump distance gives a wrong verdict. Tests compare programs with their tables, number by number.

use super::{ARCHITECTURE, Check, Half, Rule, UNKNOWN, Verdict, X32_BIT};

// From linux/bpf_common.h: the operations that the compiler uses.
/// A = the word at offset `k` of the call.
const LOAD: u16 = 0x20;
/// A = A & `k`.
const AND: u16 = 0x54;
/// Skip the next `k` instructions.
const SKIP: u16 = 0x05;
/// Skip `jt` instructions if A equals `k`, else `jf`.
const IF_EQUAL: u16 = 0x15;
/// Skip `jt` instructions if A is at least `k`, else `jf`.
const IF_AT_LEAST: u16 = 0x35;
/// Return `k`.
const RETURN: u16 = 0x06;

// From linux/seccomp.h.
/// The offset of the call's number in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// The offset of the architecture.
const ARCH: u32 = 4;
/// The offset of the arguments: eight bytes each, the lower half first.
const ARGUMENTS: u32 = 16;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ACTION: u32 = 0xffff_0000;

/// The weight of a call with checked arguments, relative to a call without. The kernel runs the filter for an unchecked
/// call at most once, and for a checked call every time.
const CHECK_WEIGHT: u32 = 32;

/// One instruction: `struct sock_filter` of `linux/filter.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// How many instructions to skip if the comparison is true.
    pub jt: u8,
    /// How many instructions to skip if the comparison is false.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// A call as a filter sees it: `struct seccomp_data` of `linux/seccomp.h` without the instruction pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeccompData {
    /// The number of the call.
    pub number: u32,
    /// The architecture of the interface that was used.
    pub architecture: u32,
    /// The arguments of the call.
    pub arguments: [u64; 6],
}

/// The rule for all numbers from `first` to the number before the next range.
#[derive(Debug)]
struct Range {
    first: u32,
    rule: Rule,
    weight: u32,
}

/// Compiles rules to a program. The index of a rule is the number of its call. Higher numbers are unknown calls.
pub(super) fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let mut writer = Writer::default();
    let native = writer.search(&ranges(rules));
    let native = writer.load_before(NUMBER, native);
    let foreign = writer.rule(Rule::Always(Verdict::Kill));
    let start = writer.branch(IF_EQUAL, &[ARCHITECTURE], native, foreign);
    writer.load_before(ARCH, start);
    writer.backwards.reverse();
    writer.backwards
}

/// Joins consecutive numbers with the same rule into one range. The last range extends to the highest number, so it
/// includes x32 numbers.
fn ranges(rules: &[Rule]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for (first, rule) in (0..X32_BIT).zip(rules.iter().copied().chain([UNKNOWN])) {
        let weight = match rule {
            Rule::Always(_) => 1,
            Rule::Check(_) => CHECK_WEIGHT,
        };
        match ranges.last_mut() {
            Some(last) if last.rule == rule => last.weight += weight,
            _ => ranges.push(Range { first, rule, weight }),
        }
    }
    ranges
}

/// The index at which to split two or more ranges so that the heavier side is as light as possible.
fn middle(ranges: &[Range]) -> usize {
    let total: u32 = ranges.iter().map(|range| range.weight).sum();
    let mut low = 0;
    let heavier = |index: &usize| {
        low += ranges[index - 1].weight;
        low.max(total - low)
    };
    (1..ranges.len()).min_by_key(heavier).expect("two ranges or more")
}

/// A place in a program, counted from its end.
type Place = usize;

/// A program that grows at its start.
#[derive(Default)]
struct Writer {
    backwards: Vec<Instruction>,
    /// The verdicts and checks that are already written, with their first instructions.
    written: Vec<(Rule, Place)>,
}

impl Writer {
    /// Writes a search for A among ranges. Each comparison halves the weight, so the heaviest ranges need the fewest
    /// comparisons.
    fn search(&mut self, ranges: &[Range]) -> Place {
        match ranges {
            [only] => self.rule(only.rule),
            [around, single, rest] if around.rule == rest.rule && single.first + 1 == rest.first => {
                let (yes, no) = (self.rule(single.rule), self.rule(around.rule));
                self.branch(IF_EQUAL, &[single.first], yes, no)
            }
            _ => {
                let (low, high) = ranges.split_at(middle(ranges));
                let (yes, no) = (self.search(high), self.search(low));
                self.branch(IF_AT_LEAST, &[high[0].first], yes, no)
            }
        }
    }

    fn rule(&mut self, rule: Rule) -> Place {
        if let Some((_, place)) = self.written.iter().find(|(written, _)| *written == rule) {
            return *place;
        }
        let place = match rule {
            Rule::Always(verdict) => self.push(operation(RETURN, value(verdict))),
            Rule::Check(&Check { argument, half, mask, values, then, otherwise }) => {
                let (yes, no) = (self.rule(then), self.rule(otherwise));
                let mut start = self.branch(IF_EQUAL, values, yes, no);
                if mask != u32::MAX {
                    start = self.push(operation(AND, mask));
                }
                let half = match half {
                    Half::Low => 0,
                    Half::High => 4,
                };
                self.load_before(ARGUMENTS + 8 * u32::from(argument) + half, start)
            }
        };
        self.written.push((rule, place));
        place
    }

    /// Writes comparisons of A with each operand. The program continues at `yes` after the first true comparison, and
    /// at `no` if none is true.
    fn branch(&mut self, comparison: u16, operands: &[u32], yes: Place, no: Place) -> Place {
        let room = operands.len() + 1;
        let (yes, no) = (self.near(yes, room), self.near(no, room));
        let mut if_not = no;
        for k in operands.iter().rev() {
            let distance = |place| u8::try_from(self.distance(place)).expect("near, and a check has few values");
            if_not = self.push(Instruction { code: comparison, jt: distance(yes), jf: distance(if_not), k: *k });
        }
        if_not
    }

    /// A place that leads to `place` and that a comparison can reach across `room` more instructions. One comparison
    /// skips at most 255.
    fn near(&mut self, place: Place, room: usize) -> Place {
        if self.distance(place) + room <= usize::from(u8::MAX) { place } else { self.skip_to(place) }
    }

    fn skip_to(&mut self, place: Place) -> Place {
        let distance = u32::try_from(self.distance(place)).expect("a program has few instructions");
        self.push(operation(SKIP, distance))
    }

    fn load_before(&mut self, offset: u32, place: Place) -> Place {
        if self.distance(place) > 0 {
            self.skip_to(place);
        }
        self.push(operation(LOAD, offset))
    }

    /// The number of instructions between `place` and the next instruction that is written.
    fn distance(&self, place: Place) -> usize {
        self.backwards.len() - place - 1
    }

    fn push(&mut self, instruction: Instruction) -> Place {
        self.backwards.push(instruction);
        self.backwards.len() - 1
    }
}

fn operation(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn value(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Allow => RET_ALLOW,
        Verdict::Errno(number) => RET_ERRNO | u32::from(number),
        Verdict::Kill => RET_KILL_PROCESS,
    }
}

/// The kernel's verdict on a call under this program. For a program that [`super::filter`] cannot produce, the result
/// is that the process ends. The kernel would not load most such programs.
#[must_use]
pub fn evaluate(program: &[Instruction], data: &SeccompData) -> Verdict {
    run(program, data).0
}

/// The verdict, and the number of instructions that were executed.
fn run(program: &[Instruction], data: &SeccompData) -> (Verdict, usize) {
    let mut accumulator = 0;
    let mut rest = program.iter();
    let mut steps = 0;
    while let Some(&Instruction { code, jt, jf, k }) = rest.next() {
        steps += 1;
        let skip = match code {
            LOAD => {
                let Some(word) = data.word(k) else { break };
                accumulator = word;
                0
            }
            AND => {
                accumulator &= k;
                0
            }
            SKIP => k as usize,
            IF_EQUAL => usize::from(if accumulator == k { jt } else { jf }),
            IF_AT_LEAST => usize::from(if accumulator >= k { jt } else { jf }),
            RETURN => return (verdict(k), steps),
            _ => break,
        };
        rest = rest.as_slice().get(skip..).unwrap_or_default().iter();
    }
    (Verdict::Kill, steps)
}

fn verdict(value: u32) -> Verdict {
    match value & RET_ACTION {
        RET_ALLOW => Verdict::Allow,
        #[expect(clippy::cast_possible_truncation, reason = "the other half is the action")]
        RET_ERRNO => Verdict::Errno(value as u16),
        _ => Verdict::Kill,
    }
}

impl SeccompData {
    /// The word at an offset; `None` for an offset that no program of the compiler loads.
    fn word(&self, offset: u32) -> Option<u32> {
        match offset {
            NUMBER => Some(self.number),
            ARCH => Some(self.architecture),
            _ => {
                let halves = offset.checked_sub(ARGUMENTS).filter(|offset| offset % 4 == 0)? / 4;
                let argument = self.arguments.get(halves as usize / 2)?;
                u32::try_from(argument >> (32 * (halves % 2)) & 0xffff_ffff).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{errno, filter, table};
    use bailiwick_types::Profile;
    use proptest::prelude::*;

    const ALLOW: Rule = Rule::Always(Verdict::Allow);

    fn number_of(number: u32) -> SeccompData {
        SeccompData { number, architecture: ARCHITECTURE, arguments: [0; 6] }
    }

    /// The kernel's requirements on a program (`bpf_check_classic` of `net/core/filter.c`), reduced to the instructions
    /// that the compiler writes.
    fn assert_loadable(program: &[Instruction]) {
        assert!(!program.is_empty());
        assert_eq!(program.last().map(|last| last.code), Some(RETURN));
        for (index, instruction) in program.iter().enumerate() {
            let behind = program.len() - index - 1;
            let reach = match instruction.code {
                SKIP => instruction.k as usize,
                IF_EQUAL | IF_AT_LEAST => usize::from(instruction.jt.max(instruction.jf)),
                LOAD => {
                    assert!(instruction.k % 4 == 0 && instruction.k < 64, "load of {}", instruction.k);
                    0
                }
                AND | RETURN => continue,
                code => panic!("operation {code:#x}"),
            };
            assert!(reach < behind, "{index} jumps out of the program");
        }
    }

    #[test]
    fn filters_load_and_are_short() {
        for profile in Profile::ALL {
            let program = filter(*profile);
            assert_loadable(&program);
            assert!(program.len() < 300, "{profile}: {} instructions", program.len());
            assert_eq!(program, filter(*profile), "the same table makes the same filter");
        }
    }

    #[test]
    fn every_call_is_decided_in_a_few_steps() {
        for profile in Profile::ALL {
            let program = filter(*profile);
            let rows = table(*profile);
            let steps = |number: u32| run(&program, &number_of(number)).1;
            let plain = rows.iter().filter(|row| matches!(row.rule, Rule::Always(_)));
            let longest = plain.max_by_key(|row| steps(row.number)).expect("rows");
            assert!(steps(longest.number) <= 16, "{profile}: {} takes {}", longest.name, steps(longest.number));
            let all: usize = (0..470).map(steps).sum();
            assert!(all <= 470 * 14, "{profile}: {all} steps for all numbers, which the kernel takes on every load");
        }
    }

    #[test]
    fn what_is_too_far_for_a_comparison_is_skipped_to() {
        let rules: Vec<Rule> = (0..1500).map(|number| errno(number % 700)).collect();
        let program = compile(&rules);
        assert_loadable(&program);
        assert!(program.iter().any(|instruction| instruction.code == SKIP && instruction.k > 255));
        for number in 0..2000 {
            let want = if number < 1500 { errno(number % 700) } else { UNKNOWN };
            assert_eq!(Rule::Always(evaluate(&program, &number_of(number))), want, "number {number}");
        }
    }

    #[test]
    fn an_empty_table_knows_no_call() {
        let program = compile(&[]);
        assert_loadable(&program);
        assert_eq!(evaluate(&program, &number_of(0)), Verdict::Errno(38));
        assert_eq!(evaluate(&program, &SeccompData { architecture: 1, ..number_of(0) }), Verdict::Kill);
    }

    #[test]
    fn a_program_that_is_not_ours_ends_the_process() {
        let allow = operation(RETURN, RET_ALLOW);
        for program in [
            vec![],
            vec![operation(SKIP, 1), allow],
            vec![operation(SKIP, u32::MAX), allow],
            vec![operation(0x87, 0), allow],
            vec![operation(LOAD, 64), allow],
            vec![operation(LOAD, 18), allow],
            vec![operation(LOAD, 8), allow],
            vec![operation(RETURN, 0x7ff0_0000)],
        ] {
            assert_eq!(evaluate(&program, &number_of(0)), Verdict::Kill, "{program:?}");
        }
    }

    #[test]
    fn words_are_halves_of_arguments_low_half_first() {
        let data = SeccompData { number: 1, architecture: 2, arguments: [0x4_0000_0003, 0, 0, 0, 0, 0x6_0000_0005] };
        assert_eq!([0, 4, 16, 20, 56, 60].map(|offset| data.word(offset)), [1, 2, 3, 4, 5, 6].map(Some));
        assert_eq!([8, 12, 17, 64, u32::MAX].map(|offset| data.word(offset)), [None; 5]);
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let plain = prop_oneof![Just(ALLOW), (0..5u32).prop_map(errno), Just(Rule::Always(Verdict::Kill))];
        plain.prop_recursive(4, 16, 2, |rule| {
            let mask = prop_oneof![Just(u32::MAX), Just(7), any::<u32>()];
            let values = proptest::collection::vec(prop_oneof![0..9u32, any::<u32>()], 1..6);
            let half = prop_oneof![Just(Half::Low), Just(Half::High)];
            (0..6u8, half, mask, values, rule.clone(), rule).prop_map(
                |(argument, half, mask, values, then, otherwise)| {
                    // A `Check` refers to static data, so a test leaks its few rules.
                    let values = Vec::leak(values);
                    Rule::Check(Box::leak(Box::new(Check { argument, half, mask, values, then, otherwise })))
                },
            )
        })
    }

    fn any_argument() -> impl Strategy<Value = u64> {
        prop_oneof![0..9u64, any::<u32>().prop_map(u64::from), any::<u64>()]
    }

    proptest! {
        #[test]
        fn random_tables_and_their_programs_agree(
            rules in proptest::collection::vec(prop_oneof![2 => Just(ALLOW), 1 => Just(UNKNOWN), 1 => any_rule()], 0..300),
            arguments in proptest::collection::vec([(); 6].map(|()| any_argument()), 1..8),
            strangers in proptest::collection::vec(any::<u32>(), 8),
        ) {
            let program = compile(&rules);
            assert_loadable(&program);
            for number in (0..310).chain(strangers).chain([X32_BIT, u32::MAX]) {
                let rule = rules.get(number as usize).copied().unwrap_or(UNKNOWN);
                for arguments in &arguments {
                    let data = SeccompData { arguments: *arguments, ..number_of(number) };
                    prop_assert_eq!(evaluate(&program, &data), rule.verdict(arguments), "number {}", number);
                }
            }
        }
    }
}
