//! How long each program waits for another: the one table of time limits.

use std::time::Duration;

/// `bailiwickd` waits for the rest of a request once its first byte is there, and for a tenant's client to begin one.
pub const REQUEST: Duration = Duration::from_secs(5);
/// `bailiwickd` waits for an operator's connection to make its next request.
pub const IDLE: Duration = Duration::from_secs(60);
/// A `bailiwickd` that is ending waits for a newly accepted client to begin its request.
pub const LAST_REQUEST: Duration = Duration::from_secs(2);
/// `bailiwickd` waits for a client to read a reply.
pub const REPLY: Duration = Duration::from_secs(10);
/// The warden waits for a peer to read any part of a message. Then it closes the connection.
pub const UNREAD: Duration = Duration::from_secs(5);
/// `bailiwickd` waits for an event that a client waits for, before it replies that there was none.
pub const EVENT: Duration = Duration::from_secs(25);
/// `bailiwickd` waits for one change by the warden: a start on a loaded host, the removal of a large tenant.
pub const CHANGE: Duration = Duration::from_secs(60);
/// A program without a user in front of it (the recorder, the PAM module) waits for one answer.
pub const ANSWER: Duration = Duration::from_secs(30);
/// `bailiwickd` waits for the warden before it answers a request for the metrics without it.
pub const METRICS_WARDEN: Duration = Duration::from_secs(2);
/// `bailiwick-exporter` waits for `bailiwickd` to answer a request for the metrics.
pub const METRICS: Duration = Duration::from_secs(8);
/// `bailiwick-notify` waits for `bailiwickd` to answer, beside the time that it asked it to wait.
pub const NOTICES: Duration = Duration::from_secs(10);
/// `bailiwickd` waits for `bailiwick-net` to answer a question.
pub const NET_ANSWER: Duration = Duration::from_secs(5);
/// `bailiwickd` waits for the network to start, when an operator gives somebody one.
pub const NET_START: Duration = Duration::from_secs(20);
/// A client waits for a daemon that is being restarted to listen again.
pub const RESTART: Duration = Duration::from_secs(5);
/// The pause between two attempts to reach a daemon that is being restarted.
pub const RETRY: Duration = Duration::from_millis(50);
/// `bailiwickd` waits for the init of a jail to accept a session.
pub const INIT: Duration = Duration::from_secs(5);
/// `bailiwickd` waits for the init of a jail to answer a question.
pub const INIT_ANSWER: Duration = Duration::from_secs(1);
/// The init of a jail waits for the request of a connection.
pub const INIT_REQUEST: Duration = Duration::from_secs(1);
