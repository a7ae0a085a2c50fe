//! The server's log: one JSON object per line on standard error, laid out as etcd's.
//!
//! `{"level":"info","ts":"2026-01-02T03:04:05.678901Z","caller":"node/shell.rs:12","msg":"..."}`
//! and then the event's fields in the order they were written. Spans are not shown.

use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// etcd's level names. What is above error never happens here, so those show errors.
pub fn level(name: &str) -> Option<LevelFilter> {
    Some(match name {
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        "error" | "dpanic" | "panic" | "fatal" => LevelFilter::ERROR,
        _ => return None,
    })
}

/// Sends everything at `level` and above to standard error, for the whole process. A second call
/// changes nothing.
pub fn install(level: LevelFilter) {
    let layer = JsonLines {
        level,
        wall: || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64),
        // One write per line, so that lines of different threads stay whole. A log that cannot
        // be written has nobody to tell.
        write: |line: &[u8]| {
            let _ = std::io::stderr().write_all(line);
        },
    };
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
}

/// A layer that formats events as lines. Clock and output are parts, so that a test can hold them.
pub struct JsonLines<C, W> {
    level: LevelFilter,
    /// Microseconds since 1970.
    wall: C,
    write: W,
}

impl<S, C, W> Layer<S> for JsonLines<C, W>
where
    S: Subscriber,
    C: Fn() -> u64 + 'static,
    W: Fn(&[u8]) + 'static,
{
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.level
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        let file = metadata.file().unwrap_or("?");
        // Whatever the build's directory was: callers are named from the source root.
        let file = file.rsplit_once("src/").map_or(file, |(_, inside)| inside);
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut line = format!(
            "{{\"level\":\"{level}\",\"ts\":\"{}\",\"caller\":\"{file}:{}\",\"msg\":",
            timestamp((self.wall)()),
            metadata.line().unwrap_or(0),
        );
        put_string(&mut line, &fields.message);
        line.push_str(&fields.rest);
        line.push_str("}\n");
        (self.write)(line.as_bytes());
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    /// `,"name":value` for each field.
    rest: String,
}

impl Fields {
    fn name(&mut self, field: &Field) {
        self.rest.push(',');
        put_string(&mut self.rest, field.name());
        self.rest.push(':');
    }
    fn plain(&mut self, field: &Field, value: impl std::fmt::Display) {
        self.name(field);
        write!(self.rest, "{value}").expect("a String takes all");
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.name(field);
            put_string(&mut self.rest, value);
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Both the message and fields written with `%` come this way.
        self.record_str(field, &format!("{value:?}"));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.plain(field, value);
        } else {
            // JSON has no such numbers.
            self.record_str(field, &value.to_string());
        }
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &value.to_string());
    }
}

fn put_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// RFC 3339 in UTC with microseconds.
fn timestamp(micros: u64) -> String {
    let seconds = micros / 1_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        micros % 1_000_000
    )
}

/// Year, month and day of a number of days since 1970-01-01. Counts in years that begin in March,
/// so that the leap day comes last, and in eras of 400 years (146,097 days), which all are alike.
fn civil(days: u64) -> (u64, u64, u64) {
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn lines(level: LevelFilter, log: impl FnOnce()) -> Vec<serde_json::Value> {
        let out = Arc::new(Mutex::new(Vec::new()));
        let sink = out.clone();
        let layer = JsonLines {
            level,
            wall: || 1_767_323_045_678_901,
            write: move |line: &[u8]| sink.lock().expect("one thread").extend_from_slice(line),
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let text = String::from_utf8(out.lock().expect("one thread").clone()).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn a_line_is_an_object_of_etcds_shape() {
        let seen = lines(LevelFilter::INFO, || {
            let peer = "a\"b";
            tracing::info!(
                "local-member-id" = %7u8, count = 3, share = 0.5, lost = f64::NAN, ok = true, peer,
                list = ?[1, 2], "it is {}", "so\n"
            );
            tracing::debug!("not shown");
            tracing::error!("shown");
        });
        let first = &seen[0];
        assert_eq!(first["level"], "info");
        assert_eq!(first["ts"], "2026-01-02T03:04:05.678901Z");
        let caller = first["caller"].as_str().expect("a caller");
        assert!(caller.starts_with("cli/logging.rs:"), "{caller}");
        assert_eq!(first["msg"], "it is so\n");
        assert_eq!(first["local-member-id"], "7");
        assert_eq!(first["count"], 3);
        assert_eq!(first["share"], 0.5);
        assert_eq!(first["lost"], "NaN");
        assert_eq!(first["ok"], true);
        assert_eq!(first["peer"], "a\"b");
        assert_eq!(first["list"], "[1, 2]");
        assert_eq!(seen[1]["level"], "error");
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn dates() {
        let day = 86_400_000_000;
        for (days, date) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (789, "1972-02-29"),
            (11_016, "2000-02-29"),
            (20_454, "2026-01-01"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert!(timestamp(days * day).starts_with(date), "{days}: {}", timestamp(days * day));
        }
    }

    #[test]
    fn levels() {
        assert_eq!(level("debug"), Some(LevelFilter::DEBUG));
        assert_eq!(level("fatal"), Some(LevelFilter::ERROR));
        assert_eq!(level("INFO"), None);
    }
}
