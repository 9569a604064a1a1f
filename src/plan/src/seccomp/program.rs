//! From rules to classic BPF, and back: a compiler, and an interpreter of what it emits.
//!
//! A program is made of blocks. Every block ends in returns, so that blocks are only ever put one behind the other:
//! no jump goes back, none needs fixing up later, and a wrong length is the one mistake to make.

use super::{ARCHITECTURE, Check, Rule, UNKNOWN, Verdict, X32_BIT};

// linux/bpf_common.h, the few operations that we need.
/// A = the word at offset `k` of the call.
const LOAD: u16 = 0x20;
/// A = A & `k`.
const AND: u16 = 0x54;
/// Skip `k` instructions.
const SKIP: u16 = 0x05;
/// Skip `jt` instructions if A is `k`, else `jf`.
const IF_EQUAL: u16 = 0x15;
/// Skip `jt` instructions if A is `k` or more, else `jf`.
const IF_AT_LEAST: u16 = 0x35;
/// Return `k`.
const RETURN: u16 = 0x06;

// linux/seccomp.h
/// Offset of the number in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// Offset of the architecture.
const ARCH: u32 = 4;
/// Offset of the arguments, eight bytes each, low half first.
const ARGUMENTS: u32 = 16;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ACTION: u32 = 0xffff_0000;

/// A call whose arguments are checked counts for as much as this many plain ones: the kernel runs the filter for plain
/// ones at most once, for this one always.
const CHECK_WEIGHT: u32 = 32;

/// One instruction: `struct sock_filter` of `linux/filter.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// How many instructions to skip if the comparison holds.
    pub jt: u8,
    /// How many instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A call, as a filter sees it: `struct seccomp_data` of `linux/seccomp.h`, without the instruction pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeccompData {
    /// Number.
    pub number: u32,
    /// Architecture of the interface that was called.
    pub architecture: u32,
    /// Arguments.
    pub arguments: [u64; 6],
}

/// Instructions of which each path ends in a return.
type Block = Vec<Instruction>;

/// A rule for the numbers from `first` up to the next range's first.
#[derive(Debug)]
struct Range {
    first: u32,
    rule: Rule,
    weight: u32,
}

/// The program for these rules, which are in the order of their numbers.
pub(super) fn compile(rules: &[(u32, Rule)]) -> Vec<Instruction> {
    let mut program = vec![load(ARCH)];
    let mut native = vec![load(NUMBER)];
    native.extend(search(&ranges(rules)));
    program.extend(branch(IF_EQUAL, &[ARCHITECTURE], native, vec![give(Verdict::Kill)]));
    program
}

/// The rules, and what applies between and above them, as ranges that leave no number out.
fn ranges(rules: &[(u32, Rule)]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let mut add = |first: u32, next: u32, rule: Rule| {
        let weight = match rule {
            Rule::Always(_) => next - first,
            Rule::Check(_) => CHECK_WEIGHT,
        };
        match ranges.last_mut() {
            Some(last) if last.rule == rule => last.weight += weight,
            _ => ranges.push(Range { first, rule, weight }),
        }
    };
    let mut next = 0;
    for &(number, rule) in rules {
        assert!(next <= number && number < X32_BIT, "rules are native, ordered, one for each number");
        if next < number {
            add(next, number, UNKNOWN);
        }
        next = number + 1;
        add(number, next, rule);
    }
    add(next, next + 1, UNKNOWN); // and all above, x32 among them
    ranges
}

/// Finds A among ranges: halves their weight with every comparison, so that what is called or tried most is found
/// soonest.
fn search(ranges: &[Range]) -> Block {
    match ranges {
        [only] => block(only.rule),
        [around, single, rest] if around.rule == rest.rule && single.first + 1 == rest.first => {
            branch(IF_EQUAL, &[single.first], block(single.rule), block(around.rule))
        }
        _ => {
            let (low, high) = ranges.split_at(middle(ranges));
            branch(IF_AT_LEAST, &[high[0].first], search(high), search(low))
        }
    }
}

/// Where to cut two or more ranges, so that the heavier side is as light as can be.
fn middle(ranges: &[Range]) -> usize {
    let total: u32 = ranges.iter().map(|range| range.weight).sum();
    let mut low = 0;
    let heavier = |index: &usize| {
        low += ranges[index - 1].weight;
        low.max(total - low)
    };
    (1..ranges.len()).min_by_key(heavier).expect("two ranges or more")
}

fn block(rule: Rule) -> Block {
    match rule {
        Rule::Always(verdict) => vec![give(verdict)],
        Rule::Check(&Check { argument, mask, values, then, otherwise }) => {
            let mut instructions = vec![load(ARGUMENTS + 8 * u32::from(argument))];
            if mask != u32::MAX {
                instructions.push(operation(AND, mask));
            }
            instructions.extend(branch(IF_EQUAL, values, block(then), block(otherwise)));
            instructions
        }
    }
}

/// Compares A with each operand; `yes` once a comparison holds, `no` if none does.
fn branch(comparison: u16, operands: &[u32], yes: Block, no: Block) -> Block {
    let skip = |distance: usize| operation(SKIP, u32::try_from(distance).expect("a program has few instructions"));
    let compare = |distance: usize| {
        let last = operands.len() - 1;
        operands.iter().enumerate().map(move |(index, k)| {
            let jt = u8::try_from(distance + last - index).ok()?;
            Some(Instruction { code: comparison, jt, jf: 0, k: *k })
        })
    };
    let near: Option<Block> = compare(no.len()).collect();
    let mut instructions = near.unwrap_or_else(|| {
        // A comparison reaches over 255 instructions at most, a skip over any number.
        let far: Option<Block> = compare(1).collect();
        let mut far = far.expect("a check has few values");
        far.extend([skip(1), skip(no.len())]);
        far
    });
    instructions.extend(no);
    instructions.extend(yes);
    instructions
}

fn operation(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> Instruction {
    operation(LOAD, offset)
}

fn give(verdict: Verdict) -> Instruction {
    let value = match verdict {
        Verdict::Allow => RET_ALLOW,
        Verdict::Errno(number) => RET_ERRNO | u32::from(number),
        Verdict::Kill => RET_KILL_PROCESS,
    };
    operation(RETURN, value)
}

/// What the kernel would do with a call under this program. A program that [`super::filter`] would not emit ends the
/// process, as far as this function is concerned; the kernel would not even load most of them.
#[must_use]
pub fn evaluate(program: &[Instruction], data: &SeccompData) -> Verdict {
    run(program, data).0
}

/// The verdict, and how many instructions it took.
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
    /// The word at an offset, where there is one that we load.
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

    /// The kernel's own demands on a program (`bpf_check_classic` of `net/core/filter.c`, narrowed to what we emit).
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
            assert!(all <= 470 * 10, "{profile}: {all} steps for all numbers, which the kernel takes on every load");
        }
    }

    #[test]
    fn a_block_too_long_for_a_jump_is_skipped_in_two() {
        let no: Block = (0..300).map(|k| operation(AND, !k)).chain([give(Verdict::Kill)]).collect();
        let yes = vec![give(Verdict::Allow)];
        let mut program = vec![load(NUMBER)];
        program.extend(branch(IF_EQUAL, &[7, 8, 9], yes, no));
        assert_loadable(&program);
        for number in 0..20 {
            let want = if (7..10).contains(&number) { Verdict::Allow } else { Verdict::Kill };
            assert_eq!(evaluate(&program, &number_of(number)), want);
        }
    }

    #[test]
    fn a_program_that_is_not_ours_ends_the_process() {
        let allow = give(Verdict::Allow);
        for program in [
            vec![],
            vec![operation(SKIP, 1), allow],
            vec![operation(SKIP, u32::MAX), allow],
            vec![operation(0x87, 0), allow],
            vec![load(64), allow],
            vec![load(18), allow],
            vec![load(8), allow],
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
            (0..6u8, mask, values, rule.clone(), rule).prop_map(|(argument, mask, values, then, otherwise)| {
                // Rules live as long as the program; those of a test are few.
                let values = Vec::leak(values);
                Rule::Check(Box::leak(Box::new(Check { argument, mask, values, then, otherwise })))
            })
        })
    }

    fn any_argument() -> impl Strategy<Value = u64> {
        prop_oneof![0..9u64, any::<u32>().prop_map(u64::from), any::<u64>()]
    }

    proptest! {
        #[test]
        fn random_tables_and_their_programs_agree(
            rules in proptest::collection::btree_map(prop_oneof![0..600u32, 0..X32_BIT], any_rule(), 0..100),
            arguments in proptest::collection::vec([(); 6].map(|()| any_argument()), 1..8),
            strangers in proptest::collection::vec(any::<u32>(), 8),
        ) {
            let ordered: Vec<(u32, Rule)> = rules.iter().map(|(number, rule)| (*number, *rule)).collect();
            let program = compile(&ordered);
            assert_loadable(&program);
            let around = rules.keys().flat_map(|number| [number.saturating_sub(1), *number, number + 1]);
            for number in around.chain(strangers).chain([0, X32_BIT, u32::MAX]) {
                let rule = rules.get(&number).copied().unwrap_or(UNKNOWN);
                for arguments in &arguments {
                    let data = SeccompData { arguments: *arguments, ..number_of(number) };
                    prop_assert_eq!(evaluate(&program, &data), rule.verdict(arguments), "number {}", number);
                }
            }
        }
    }
}
