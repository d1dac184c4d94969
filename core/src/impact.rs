//! What shipping a dependency that cannot be used would do to the hosts that use it, worked out from the manifest's `usage`.
//!
//! In the outage each request waited for about 15 calls of 2 s, one after the other. A worker is held for as long as its request waits, so
//! by Little's law a host of `w` workers whose requests wait `t` is full at `w / t` requests a second.

use std::fmt::Write as _;

use crate::manifest::Usage;
use crate::reason::Short;

/// How a call to a dependency that cannot be used ends, as its client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// It waits for an answer until the client gives up.
    Waits,
    /// It fails as soon as the answer is there.
    FailsFast,
    /// It works, and takes as long as was measured.
    Slow,
}

fn call(reason: Short) -> Option<Call> {
    match reason {
        Short::ConnectTimeout
        | Short::PartialLoss
        | Short::TlsTimeout
        | Short::ProtocolTimeout
        | Short::DnsTimeout
        | Short::ProxyTimeout => Some(Call::Waits),
        Short::TooSlow => Some(Call::Slow),
        Short::DnsNxdomain
        | Short::DnsNoAddress
        | Short::DnsServfail
        | Short::ConnectRefused
        | Short::ConnectReset
        | Short::ConnectProhibited
        | Short::HostUnreachable
        | Short::NetUnreachable
        | Short::TlsNotSpoken
        | Short::TlsClosed
        | Short::TlsAlert
        | Short::TlsUntrusted
        | Short::TlsSelfSigned
        | Short::TlsExpired
        | Short::TlsNotYetValid
        | Short::TlsNameMismatch
        | Short::TlsFingerprintMismatch
        | Short::ProtocolClosed
        | Short::ProtocolUnexpected
        | Short::NotReady
        | Short::StatusUnexpected
        | Short::BodyUnexpected
        | Short::ProxyUnreachable
        | Short::ProxyRefused
        | Short::ProxyTargetFailed
        | Short::ProxyUnexpected => Some(Call::FailsFast),
        // A path that should not exist keeps nobody waiting.
        Short::Reachable => None,
    }
}

/// What shipping would do to one host, in words that follow the fleet's name and a colon; none where `usage` does not say enough.
/// `seen_ms` is the longest that was measured: for what is too slow, until the last proof; for what fails, until it failed.
pub fn estimate(usage: &Usage, reason: Short, dependency: &str, seen_ms: Option<f64>) -> Option<String> {
    let call = call(reason)?;
    let calls = usage.calls_per_request?;
    let timeout = usage.client_timeout.map(|timeout| timeout.duration().as_secs_f64());
    let seen = seen_ms.filter(|ms| ms.is_finite() && *ms >= 0.0).map(|ms| ms / 1_000.0);
    let bounded = |seconds: f64| timeout.map_or(seconds, |timeout| seconds.min(timeout));
    let each = match call {
        Call::Waits => timeout?,
        Call::FailsFast => bounded(seen.unwrap_or(0.0)),
        Call::Slow => bounded(seen?),
    };
    let added = calls * each;
    let number = number(calls);
    let plural = if (calls - 1.0).abs() < f64::EPSILON { "call" } else { "calls" };
    let mut text = match call {
        Call::Waits => format!(
            "each request that uses {dependency} would wait up to {} ({number} {plural} × {})",
            seconds(added),
            seconds(each)
        ),
        Call::Slow => format!(
            "each request that uses {dependency} would take up to {} more ({number} {plural} × {})",
            seconds(added),
            seconds(each)
        ),
        Call::FailsFast => {
            let at_once = if each < 0.1 { "at once".to_owned() } else { format!("after {} each", seconds(each)) };
            format!(
                "the {number} {plural} to {dependency} in each request would fail {at_once}: errors rather than waiting"
            )
        }
    };
    if call != Call::FailsFast && added > 0.0 {
        text.push_str(&held(usage, added));
    }
    text.push('.');
    Some(text)
}

/// What becomes of the host's workers, by Little's law.
fn held(usage: &Usage, added: f64) -> String {
    let mut text = String::new();
    let Some(workers) = usage.workers else { return text };
    let full_at = f64::from(workers) / added;
    let noun = if workers == 1 { "worker is" } else { "workers are all" };
    match usage.requests_per_second {
        Some(rate) if rate >= full_at => {
            let _ = write!(
                text,
                "; {workers} {noun} busy at {} requests/s; the host serves {}",
                number(full_at),
                number(rate)
            );
        }
        Some(rate) => {
            let busy = rate * added;
            let _ = write!(
                text,
                "; at the host's {} requests/s that holds {} of {workers} workers ({} %)",
                number(rate),
                number(busy),
                number(100.0 * busy / f64::from(workers))
            );
        }
        None => {
            let _ = write!(text, "; {workers} {noun} busy at {} requests/s", number(full_at));
        }
    }
    text
}

/// The keys of `usage` that are missing for a full estimate.
pub fn missing(usage: &Usage) -> Vec<&'static str> {
    let given = [
        ("calls_per_request", usage.calls_per_request.is_some()),
        ("client_timeout", usage.client_timeout.is_some()),
        ("requests_per_second", usage.requests_per_second.is_some()),
        ("workers", usage.workers.is_some()),
    ];
    given.into_iter().filter(|(_, given)| !given).map(|(key, _)| key).collect()
}

/// With one decimal where it says something: `1.3`, `120`, `0.04`.
fn number(value: f64) -> String {
    let text = if value >= 100.0 || (value - value.round()).abs() < 0.05 && value >= 1.0 {
        format!("{value:.0}")
    } else if value >= 0.1 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `30 s`, `1.5 s`, `450 ms`, `5 min`.
fn seconds(value: f64) -> String {
    if value < 1.0 {
        format!("{} ms", number(value * 1_000.0))
    } else if value < 180.0 {
        format!("{} s", number(value))
    } else {
        format!("{} min", number(value / 60.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Millis;

    fn usage(calls: f64, timeout_ms: u32, rate: f64, workers: u32) -> Usage {
        Usage {
            calls_per_request: Some(calls),
            client_timeout: Some(Millis(timeout_ms)),
            requests_per_second: Some(rate),
            workers: Some(workers),
        }
    }

    #[test]
    fn the_outage_in_numbers() {
        let text = estimate(&usage(15.0, 2_000, 120.0, 40), Short::ConnectTimeout, "ai-cache", Some(1_000.0));
        assert_eq!(
            text.as_deref(),
            Some(
                "each request that uses ai-cache would wait up to 30 s (15 calls × 2 s); 40 workers are all busy at 1.3 requests/s; \
                 the host serves 120."
            )
        );
    }

    #[test]
    fn what_does_not_fill_the_host_holds_a_share_of_it() {
        let text = estimate(&usage(1.0, 500, 10.0, 40), Short::ProtocolTimeout, "db", None).unwrap();
        assert_eq!(
            text,
            "each request that uses db would wait up to 500 ms (1 call × 500 ms); at the host's 10 requests/s that holds 5 of 40 \
             workers (12.5 %)."
        );
    }

    #[test]
    fn a_refusal_fails_fast_and_what_is_slow_adds_what_was_measured() {
        let refused = estimate(&usage(15.0, 2_000, 120.0, 40), Short::ConnectRefused, "db", Some(0.4)).unwrap();
        assert_eq!(refused, "the 15 calls to db in each request would fail at once: errors rather than waiting.");
        let slow = estimate(&usage(2.0, 5_000, 10.0, 40), Short::TooSlow, "db", Some(700.0)).unwrap();
        assert_eq!(
            slow,
            "each request that uses db would take up to 1.4 s more (2 calls × 700 ms); at the host's 10 requests/s that holds 14 of 40 \
             workers (35 %)."
        );
        // The client gives up before that.
        let cut = estimate(&usage(2.0, 500, 10.0, 40), Short::TooSlow, "db", Some(700.0)).unwrap();
        assert!(cut.contains("up to 1 s more (2 calls × 500 ms)"), "{cut}");
    }

    #[test]
    fn nothing_is_made_up() {
        let whole = usage(15.0, 2_000, 120.0, 40);
        assert_eq!(estimate(&Usage::default(), Short::ConnectTimeout, "db", None), None);
        let no_timeout = Usage { client_timeout: None, ..whole };
        assert_eq!(estimate(&no_timeout, Short::ConnectTimeout, "db", Some(1_000.0)), None);
        assert_eq!(missing(&no_timeout), ["client_timeout"]);
        assert_eq!(estimate(&whole, Short::TooSlow, "db", None), None, "too slow, and by how much nobody knows");
        assert_eq!(estimate(&whole, Short::Reachable, "db", None), None);
        let no_rate = Usage { requests_per_second: None, ..whole };
        let text = estimate(&no_rate, Short::ConnectTimeout, "db", None).unwrap();
        assert!(text.ends_with("40 workers are all busy at 1.3 requests/s."), "{text}");
        let no_workers = Usage { workers: None, ..whole };
        let text = estimate(&no_workers, Short::ConnectTimeout, "db", None).unwrap();
        assert!(text.ends_with("(15 calls × 2 s)."), "{text}");
    }
}
