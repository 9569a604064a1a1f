//! Reads any text as a tenant's crontab. The reader must not panic, and its result must be bounded.

#![no_main]

use bailiwick_types::Crontab;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Crontab { jobs, faults } = Crontab::read(text);
    assert!(jobs.len() <= 64 && faults.len() <= 16);
    let lines = text.lines().count();
    assert!(faults.iter().all(|fault| fault.line.is_some_and(|line| (1..=lines).contains(&line))));
    for job in jobs {
        assert!(job.variables.len() <= 32 && job.shell.starts_with('/') && !job.command.is_empty());
        let words = [&job.command, &job.input, &job.shell];
        assert!(words.into_iter().chain(job.variables.iter().map(|(_, value)| value)).all(|word| !word.contains('\0')));
    }
});
