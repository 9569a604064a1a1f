//! The older text format of Prometheus, made of OpenMetrics: the names at the head of a family differ, its samples do not.

/// What a family is called in the older format, and its kind there.
fn head(name: &str, kind: &str) -> (String, &'static str) {
    match kind {
        "counter" => (format!("{name}_total"), "counter"),
        "info" => (format!("{name}_info"), "gauge"),
        "histogram" => (name.to_owned(), "histogram"),
        _ => (name.to_owned(), "gauge"),
    }
}

/// Makes the older format of a text in OpenMetrics.
pub(crate) fn of(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help = "";
    for line in open_metrics.split_inclusive('\n') {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            continue;
        };
        match comment.trim_end().splitn(3, ' ').collect::<Vec<_>>()[..] {
            ["HELP", _, rest] => help = rest,
            ["TYPE", name, kind] => {
                let (name, kind) = head(name, kind);
                text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            }
            // The unit is part of the name, and the end of the text says itself.
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_family_has_its_older_name_and_its_samples_stay() {
        let new = "# HELP a_seconds It is.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total{x=\"# TYPE\"} 1\n\
                   # HELP b B.\n# TYPE b info\nb_info{v=\"1\"} 1\n# HELP c C.\n# TYPE c gauge\nc 1\n# EOF\n";
        let old = "# HELP a_seconds_total It is.\n# TYPE a_seconds_total counter\na_seconds_total{x=\"# TYPE\"} 1\n\
                   # HELP b_info B.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c C.\n# TYPE c gauge\nc 1\n";
        assert_eq!(super::of(new), old);
    }
}
