//! Floor 0: names, ids, sizes and limits. Pure values, parsed once, valid by construction.
//!
//! A value of a type of this crate has passed its check, and no higher floor checks it again. This crate reads no file,
//! no clock and no kernel interface.

mod crontab;
mod display;
mod event;
mod exit;
mod facts;
mod ftp;
mod group_file;
mod id;
mod known_items;
mod lent_socket;
mod limit;
mod limit_key;
mod mail;
mod mail_address;
mod metrics;
mod name;
mod network;
mod network_facts;
mod notice;
mod notice_rule;
mod observed;
mod quantity;
mod report;
mod schedule;
mod service;
mod session;
mod tenant;
mod usage;
mod web_socket;

pub use crontab::{CRONTAB_JOB, Crontab, CrontabFault, CrontabJob, MAX_CRONTAB};
pub use display::{is_dangerous, part, percent, visible, visible_lines};
pub use event::{Audience, Event, EventData, EventType, EventTypes, EventValue, UnknownEventType};
pub use exit::ExitStatus;
pub use facts::{BlockDevice, Hierarchy, HostFacts, QuotaFacts, StorageFacts, UNIFIED, WeightPolicy};
pub use ftp::{FtpUser, NotFtpUser, NotHash, PasswordHash};
pub use group_file::{MAX_GROUP_FILE, MAX_GROUPS, groups_of};
pub use id::{HostGid, HostUid, IDS_PER_TENANT, IdPool, IdPoolError, IdRange};
pub use known_items::known_items;
pub use lent_socket::LentSocket;
pub use limit::{Bound, Limits, ParseBoundError, Resource, SoftHard, UnknownResource};
pub use limit_key::{BFQ_WEIGHT, Holder, LimitKey, LimitKind, LimitUnit, LimitValue, UnknownLimit};
pub use mail::Mail;
pub use mail_address::{MailAddress, NotMailAddress};
pub use metrics::{
    DurationCounts, HostMetrics, MOST_METERED, MetricsDetail, MetricsPage, MonthUse, PoolSpace, QuotaReading,
    TenantMetrics, TenantMore, UnknownDetail,
};
pub use name::{
    FtpName, HostSocketName, ImageName, LoginName, NameError, PlanName, ServiceName, SocketName, TargetName,
    TenantName, TimerName,
};
pub use network::{
    ALWAYS_BLOCKED, Allow, BlockedPrefix, ByteRate, Destination, DestinationError, DomainName, HostNetwork, Ipv6Pool,
    Link, LinkDirection, MonthlyVolume, Network, NetworkMode, NotDomainName, Port, PortError, PortRange, Ports, Prefix,
    PrefixError, Publish, SMTP_PORTS, Transport, WhenOver, WhenOverError, is_domain,
};
pub use network_facts::{
    NetworkConnection, NetworkFacts, NetworkLimits, NetworkTraffic, RefusedPacket, RefusedRecord, Traffic, Volume,
};
pub use notice::{MOST_NOTIFIED, NoticesHost, NoticesPage, TargetKind, TenantNotices};
pub use notice_rule::{
    Contact, NotRecipient, NotThreshold, Notice, NoticeLanguage, NoticeResource, Recipient, Threshold, UnknownLanguage,
    UnknownNoticeResource,
};
pub use observed::{
    DiskFact, ForeignSocket, GroupSetting, InForce, JailInForce, LimitFact, MAX_FOREIGN, MAX_INTERFACES, MAX_MOUNTS,
    MAX_PROCESSES, MAX_STRAYS, MountFact, NAMESPACES, NetworkInForce, NotTmpfsSize, Observed, ObservedJail,
    ProcessFacts, ProcessRank, QuotaFact, SocketFacts, TmpfsSize, Visitor,
};
pub use quantity::{ByteSize, Count, CpuShare, ParseQuantityError, Period};
pub use report::{
    Action, AuditReport, Change, FeatureReport, FeatureState, Finding, HostReport, LimitReport, ProbeReport,
    SessionCount, Severity, TenantReport, TenantState, TimerReport, TimerRun, Verdict, WallReport,
};
pub use schedule::{Clock, Schedule, ScheduleError, WallTime, When};
pub use service::{
    MAX_SERVICES, MAX_SOCKETS, NotUnitName, Readiness, Restart, ServiceEnd, ServiceReport, ServiceState, ServiceVerb,
    StopSignal, UnitName, service_log,
};
pub use session::{MAX_COMMAND, SessionId, SessionIdError, SessionRecord};
pub use tenant::{Access, Door, FrozenBy, Nesting, Profile, UnknownWord};
pub use usage::{
    Fault, Incident, Kind, Measure, MemoryKinds, Moment, Point, PressureShare, ProcessSnapshot, ServiceCounts,
    Snapshot, SocketUse, TenantUsage, Unit, UnknownMeasure, Usage, Window,
};
pub use web_socket::{WEB_DIR, bound_web_socket, is_bound_web_socket, refused_socket, web_socket, web_socket_of};
