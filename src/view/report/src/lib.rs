//! Floor 3: pages of HTML about tenants and their host. It only turns into text what others have asked for.
//!
//! [`Report::page`] is the report of a host or of one tenant: a verdict, what needs attention, use over time, sessions,
//! services, network, incidents, findings and events. [`audit_page`] is an audit. Both are made of the same parts: one
//! style, one kind of table, one kind of chart.
//!
//! A page is one file without scripts that loads nothing. It can be mailed, kept, printed, and opened in ten years.
//!
//! Danger: pages show texts that tenants choose. They are escaped and cut here, and a page has a bounded size.

mod audit_page;
mod chart;
mod data;
mod host_page;
mod html;
mod parts;
mod tenant_page;
mod verdict;

#[cfg(test)]
mod check;
#[cfg(test)]
mod samples;

pub use audit_page::audit_page;
pub use data::{Report, ReportedService, ReportedTenant, Scope};
pub use verdict::{About, Level, Note, Summary};

impl Report {
    /// The report as a page.
    #[must_use]
    pub fn page(&self) -> String {
        match (self.scope, self.tenants.as_slice()) {
            (Scope::Tenant | Scope::OwnTenant, [tenant]) => tenant_page::page(self, tenant),
            _ => host_page::page(self),
        }
    }
}
