//! `preflight gate --rollback` and `--break-glass` where no controller can be asked: go on, loudly, with a record that follows later.

use std::io::Write as _;

use anstyle::AnsiColor;
use jiff::Timestamp;
use preflight_core::text::escape_to;
use preflight_proto::api::{Decision, Record, State};
use serde::Serialize;

use crate::client::Client;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::report::{self, GoesOn, Missing, ReportArgs, Told};
use crate::spool::Spool;

/// What was to be done, and why nobody could be asked.
#[derive(Debug)]
pub(super) struct Emergency<'a> {
    /// Whether it is a rollback; else the glass is broken.
    pub(super) rollback: bool,
    pub(super) application: &'a str,
    /// Empty for all.
    pub(super) regions: &'a [String],
    pub(super) release: &'a str,
    pub(super) manifest_digest: &'a str,
    pub(super) reason: Option<&'a str>,
    pub(super) ticket: Option<&'a str>,
    pub(super) error: &'a str,
}

/// What stands in the place of the gate's JSON.
#[derive(Serialize)]
struct Document<'a> {
    application: &'a str,
    release: &'a str,
    verdict: State,
    decision: Decision,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rollback: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    break_glass: bool,
    /// No controller was asked, so there is none.
    regions: [(); 0],
    error: Error<'a>,
    record: &'a Record,
    /// The file that keeps the record; none where it could not be kept.
    spooled: Option<&'a str>,
}

#[derive(Serialize)]
struct Error<'a> {
    exit: u8,
    message: &'a str,
}

/// Goes on without a verdict. Nothing that fails here holds it up.
pub(super) fn proceed(emergency: &Emergency<'_>, client: &Client, spool: &Spool, report: &ReportArgs) -> Exit {
    let what = if emergency.rollback { "ROLLBACK" } else { "BREAK GLASS" };
    shout(&format!(
        "{what}: no controller could be asked ({}). This goes on WITHOUT a verdict, and whether it is quarantined was not looked at.",
        emergency.error
    ));
    let record = record(emergency);
    let spooled = match spool.put(client.url(), &record) {
        Ok(path) => {
            let path = path.display().to_string();
            shout(&format!(
                "The record is in {path}; the next preflight command that reaches the controller tells it."
            ));
            Some(path)
        }
        Err(error) => {
            shout(&format!(
                "The record could not be kept ({error}). Keep this line, and tell who runs the controller:"
            ));
            let line = serde_json::to_string(&record).unwrap_or_default();
            let _ = writeln!(anstream::stderr(), "{}", output::ascii_safe(&line));
            None
        }
    };
    let document = serde_json::to_value(Document {
        application: emergency.application,
        release: emergency.release,
        verdict: State::Unknown,
        decision: Decision::Proceed,
        rollback: emergency.rollback,
        break_glass: !emergency.rollback,
        regions: [],
        error: Error { exit: Exit::NoVerdict.code(), message: emergency.error },
        record: &record,
        spooled: spooled.as_deref(),
    });
    let failure = Failure::no_verdict(format!("no controller could be asked: {}", emergency.error));
    let document = document.unwrap_or_default();
    let told = report::Emergency { record: &record, spooled: spooled.as_deref(), document: &document };
    let told = Told::Nothing { failure: &failure, goes_on: GoesOn::Emergency(told) };
    report.deliver(told, Exit::Proceed, Missing::IsSaid)
}

fn record(emergency: &Emergency<'_>) -> Record {
    let now = Timestamp::now();
    // Without random numbers the time and the process tell records apart.
    let random = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
    Record {
        id: format!("{random:016x}-{}", now.as_millisecond()),
        kind: if emergency.rollback { "rollback" } else { "break_glass" }.to_owned(),
        application: emergency.application.to_owned(),
        regions: emergency.regions.to_vec(),
        release: emergency.release.to_owned(),
        manifest_digest: emergency.manifest_digest.to_owned(),
        reason: emergency.reason.unwrap_or_default().to_owned(),
        ticket: emergency.ticket.unwrap_or_default().to_owned(),
        by: who(),
        at: now.to_string(),
        error: escape_to(emergency.error, 500),
    }
}

/// `USER@HOST`, as far as this host tells.
fn who() -> String {
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = named("USER").or_else(|| named("LOGNAME"));
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname();
    escape_to(&format!("{user}@{}", host.nodename().to_string_lossy()), 200)
}

/// Says it so that nobody overlooks it.
pub(super) fn shout(text: &str) {
    let yellow = AnsiColor::Yellow.on_default().bold();
    let _ = writeln!(anstream::stderr(), "{yellow}{text}{yellow:#}");
}
