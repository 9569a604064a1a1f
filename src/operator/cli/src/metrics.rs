//! `metrics`: prints what Prometheus reads, or writes it for the textfile collector of node_exporter.

use crate::output;
use bailiwick_client::Daemon;
use bailiwick_metrics::{Format, Gathered, render};
use bailiwick_proto::{Failure, time_limits};
use bailiwick_sys::file::{self, Outlives};
use bailiwick_types::{ExitStatus, MetricsDetail};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

/// Prints the metrics.
pub(crate) fn print(daemon: &Daemon, detail: Option<MetricsDetail>, format: Format) -> Result<(), Failure> {
    output::print(&render(gather(daemon, detail)?, format))
}

/// Writes the metrics to a file, in one step. Without an answer of `bailiwickd` the file says so, and the command fails.
pub(crate) fn write(daemon: &Daemon, detail: Option<MetricsDetail>, path: &Path) -> Result<(), Failure> {
    let begun = Instant::now();
    let (gathered, failure) = match gather(daemon, detail) {
        Ok(gathered) => (gathered, None),
        Err(failure) => (Gathered { took: begun.elapsed(), ..Gathered::default() }, Some(failure)),
    };
    replace(path, &render(gathered, Format::Classic)).map_err(|error| {
        Failure::of(ExitStatus::Failed, format!("cannot write the metrics to \"{}\": {error}", path.display()))
    })?;
    failure.map_or(Ok(()), Err)
}

fn gather(daemon: &Daemon, detail: Option<MetricsDetail>) -> Result<Gathered, Failure> {
    let begun = Instant::now();
    let (host, tenants) = daemon.metrics(detail, time_limits::METRICS)?;
    Ok(Gathered { host: Some(host), tenants, took: begun.elapsed() })
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "it is no name of a file"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = std::fs::File::open(folder)?;
    // Two runs have one temporary file, and one could name a half of the other's.
    file::lock(dir.as_fd()).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => io::Error::new(ErrorKind::WouldBlock, "another run writes there now"),
        _ => error,
    })?;
    file::replace_at(&dir, name, text.as_bytes(), 0o644, Outlives::Process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_proto::ControlReply;
    use bailiwick_types::{HostMetrics, MetricsPage};

    #[test]
    fn a_file_is_replaced_also_when_nobody_answers() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("bailiwick.prom");
        let page = MetricsPage { host: Some(Box::new(HostMetrics::default())), ..MetricsPage::default() };
        let replies = vec![vec![ControlReply::Metrics(Box::new(page))]];
        let (daemon, served) = bailiwick_client::fake(temp.path(), replies);
        write(&daemon, None, &path).expect("writes");
        assert!(std::fs::read_to_string(&path).expect("text").contains("\nbailiwick_up 1\n"));
        served.join().expect("ends");
        let failure = write(&daemon, None, &path).expect_err("nobody answers");
        assert_eq!(failure.status, ExitStatus::Failed);
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.contains("# TYPE bailiwick_up gauge\nbailiwick_up 0\n"), "{text}");
        let names: Vec<_> =
            std::fs::read_dir(temp.path()).expect("lists").flatten().map(|entry| entry.file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().ends_with(".new")), "{names:?}");
        assert!(write(&daemon, None, Path::new("/")).is_err());
        let other = std::fs::File::open(temp.path()).expect("opens");
        file::lock(other.as_fd()).expect("locks");
        let failure = write(&daemon, None, &path).expect_err("another run");
        assert!(failure.message.ends_with("another run writes there now"), "{}", failure.message);
    }
}
