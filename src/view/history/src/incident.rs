//! Incidents: runs of faults of one kind, with evidence from their first moments.

use crate::record::{number, tenant_id};
use crate::{History, HistoryError, failed};
use bailiwick_types::{Incident, Moment, TenantName, Window};
use rusqlite::{OptionalExtension, Row, params};

const COLUMNS: &str = "incident.id, tenant.name, kind, since, until, faults, snapshots";

impl History {
    /// Stores a new incident and returns its number. The `id` of `incident` is ignored.
    ///
    /// # Errors
    /// [`HistoryError::Full`], or another error of SQLite.
    pub fn begin_incident(&mut self, incident: &Incident) -> Result<u64, HistoryError> {
        let write = || -> rusqlite::Result<i64> {
            let tenant = tenant_id(&self.connection, &incident.tenant)?;
            self.connection
                .prepare_cached(
                    "INSERT INTO incident (tenant, kind, since, until, faults, snapshots) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .insert(params![
                    tenant,
                    incident.kind,
                    number(incident.from.0),
                    number(incident.until.0),
                    number(incident.faults),
                    snapshots(incident),
                ])
        };
        Ok(u64::try_from(write().map_err(failed("store an incident"))?).unwrap_or(0))
    }

    /// Stores the end, the faults and the snapshots of an incident that was stored before.
    ///
    /// # Errors
    /// [`HistoryError::Full`], or another error of SQLite.
    pub fn update_incident(&mut self, incident: &Incident) -> Result<(), HistoryError> {
        let write = || {
            self.connection
                .prepare_cached("UPDATE incident SET until = ?2, faults = ?3, snapshots = ?4 WHERE id = ?1")?
                .execute(params![
                    number(incident.id),
                    number(incident.until.0),
                    number(incident.faults),
                    snapshots(incident)
                ])
        };
        write().map(drop).map_err(failed("store an incident"))
    }

    /// The incidents that overlap a window, the newest first, at most `max`. They are those of all tenants when `tenants` is
    /// `None`.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn incidents(
        &self,
        tenants: Option<&[TenantName]>,
        window: Window,
        max: usize,
    ) -> Result<Vec<Incident>, HistoryError> {
        let read = || -> rusqlite::Result<Vec<Incident>> {
            let sql = format!(
                "SELECT {COLUMNS} FROM incident JOIN tenant ON tenant.id = incident.tenant
                 WHERE until >= ?1 AND since < ?2 ORDER BY since DESC, incident.id DESC"
            );
            let mut statement = self.connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![number(window.from.0), number(window.until.0)])?;
            let mut found = Vec::new();
            while let (true, Some(row)) = (found.len() < max, rows.next()?) {
                let is_included =
                    |incident: &Incident| tenants.is_none_or(|tenants| tenants.contains(&incident.tenant));
                found.extend(incident(row)?.filter(is_included));
            }
            Ok(found)
        };
        read().map_err(failed("read the incidents"))
    }

    /// One incident by its number; `None` when there is none.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn incident(&self, id: u64) -> Result<Option<Incident>, HistoryError> {
        let sql =
            format!("SELECT {COLUMNS} FROM incident JOIN tenant ON tenant.id = incident.tenant WHERE incident.id = ?1");
        let read = || self.connection.prepare_cached(&sql)?.query_row([number(id)], incident).optional();
        Ok(read().map_err(failed("read an incident"))?.flatten())
    }
}

fn snapshots(incident: &Incident) -> String {
    serde_json::to_string(&incident.snapshots).expect("plain data is written as JSON")
}

/// Reads a row. Returns `None` for one that this version cannot read, so that the others are not lost.
fn incident(row: &Row<'_>) -> rusqlite::Result<Option<Incident>> {
    let read_u64 = |column| -> rusqlite::Result<u64> { Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0)) };
    let Ok(tenant) = row.get::<_, String>(1)?.parse() else { return Ok(None) };
    let Ok(snapshots) = serde_json::from_str(&row.get::<_, String>(6)?) else { return Ok(None) };
    Ok(Some(Incident {
        id: read_u64(0)?,
        tenant,
        kind: row.get(2)?,
        from: Moment(read_u64(3)?),
        until: Moment(read_u64(4)?),
        faults: read_u64(5)?,
        snapshots,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{fresh, name};
    use bailiwick_types::{PressureShare, ProcessSnapshot, RefusedPacket, Resource, Snapshot, SocketUse, Usage};

    #[test]
    fn incidents_are_stored_changed_and_found() {
        let (_temp, mut history) = fresh();
        let hostile = "a\u{1b}[2J\n'; DROP TABLE incident; --".to_owned();
        let snapshot = Snapshot {
            at: Moment(100),
            usage: Usage::default(),
            processes: vec![ProcessSnapshot {
                pid: 7,
                parent: 1,
                command: hostile.clone(),
                memory: 9,
                files: vec![(hostile, 3)],
            }],
            pressure: vec![PressureShare {
                resource: Resource::Cpu,
                own: 1,
                others: 2,
                neighbour: Some(name("b")),
                host: false,
            }],
            sockets: vec![SocketUse { socket: "web".parse().expect("a name"), connections: Some(20), refused: 7 }],
            refused: [(RefusedPacket::Dns, 3)].into(),
        };
        let mut incident = Incident {
            id: 0,
            tenant: name("a"),
            kind: "memory".into(),
            from: Moment(100),
            until: Moment(100),
            faults: 1,
            snapshots: vec![snapshot],
        };
        incident.id = history.begin_incident(&incident).expect("stores");
        assert_eq!(history.incident(incident.id).expect("reads"), Some(incident.clone()));
        // An earlier version knew no refused packets.
        let sql = "UPDATE incident SET snapshots = replace(snapshots, ',\"refused\":{\"dns\":3}', '')";
        assert_eq!(history.connection.execute(sql, []).expect("changes"), 1);
        let earlier = history.incident(incident.id).expect("reads").expect("is there");
        assert_eq!((earlier.snapshots[0].refused.len(), earlier.snapshots[0].sockets.len()), (0, 1));
        (incident.until, incident.faults) = (Moment(300), 5);
        history.update_incident(&incident).expect("stores");
        let window = |from, until| Window { from: Moment(from), until: Moment(until) };
        assert_eq!(history.incidents(None, window(200, 250), 9).expect("reads"), [incident.clone()]);
        assert_eq!(history.incidents(None, window(301, 400), 9).expect("reads"), []);
        assert_eq!(history.incidents(Some(&[name("b")]), window(0, 400), 9).expect("reads"), []);
        assert_eq!(history.incident(99).expect("reads"), None);
        let second = history.begin_incident(&incident).expect("stores");
        assert!(second > incident.id);
    }
}
