//! The agents.

use anstyle::Style;
use jiff::Timestamp;
use preflight_proto::api::{Agent, Agents};

use super::grid::{Grid, Span};
use super::{BAD, DIM, GOOD, PLAIN, UNSURE, heading, host, paragraph, sentence, word};

/// A clock that is further off is shown, in milliseconds.
const SKEW_MS: u64 = 2_000;

/// A line for each agent, then the remarks.
pub(crate) fn render(agents: &Agents, now: Timestamp, width: usize) -> String {
    let mut out = String::new();
    if agents.agents.is_empty() {
        out.push_str("No agent has enrolled. `preflight token join --region R --fleet F` prints a token for one.\n");
    } else {
        let header = ["REGION", "FLEET", "AGENT", "HOST", "STATE", "SINCE", "IDENTITY AND REMARKS"];
        let mut grid = Grid::new(header.map(str::to_owned));
        for agent in &agents.agents {
            grid.row(vec![
                Span::plain(word(&agent.region)),
                Span::plain(word(&agent.fleet)),
                Span::plain(word(&agent.agent)),
                Span::plain(host(&agent.identity).unwrap_or_default()),
                Span::new(style_of(&agent.state), word(&agent.state)),
                Span::plain(since(agent, now)),
                Span::plain(remarks(agent, now)),
            ]);
        }
        out.push_str(&grid.list(width));
    }
    if !agents.remarks.is_empty() {
        out.push_str(&heading("Remarks"));
        for remark in &agents.remarks {
            out.push_str(&paragraph("  ", &sentence(remark), width));
        }
    }
    out
}

fn style_of(state: &str) -> Style {
    match state {
        "connected" => GOOD,
        "unsteady" | "lost" => UNSURE,
        "revoked" => BAD,
        "left" | "enrolled" => DIM,
        _ => PLAIN,
    }
}

/// The identity's key, and whatever is out of the ordinary.
fn remarks(agent: &Agent, now: Timestamp) -> String {
    let key = agent.identity.key();
    let mut parts = vec![if key.0.is_empty() { "no network identity".to_owned() } else { key.to_string() }];
    if let Some(skew) = agent.clock_skew_ms.filter(|skew| skew.unsigned_abs() > SKEW_MS) {
        let way = if skew > 0 { "ahead" } else { "behind" };
        parts.push(format!("clock {} {way}", span(skew.unsigned_abs() / 1_000)));
    }
    if agent.certificate_until.parse::<Timestamp>().is_ok_and(|until| until <= now) {
        parts.push("certificate ended".to_owned());
    }
    parts.extend(agent.version.as_deref().map(|version| format!("v{}", word(version))));
    parts.extend(agent.remark.as_deref().map(sentence));
    parts.join(" · ")
}

/// When an agent that is not there was; nothing for one that is.
fn since(agent: &Agent, now: Timestamp) -> String {
    match (agent.state.as_str(), agent.last_seen.as_deref()) {
        ("connected" | "unsteady", _) => String::new(),
        (_, Some(at)) => ago(at, now),
        (_, None) => "never".to_owned(),
    }
}

fn ago(at: &str, now: Timestamp) -> String {
    match at.parse::<Timestamp>() {
        Ok(at) => format!("{} ago", span(u64::try_from(now.duration_since(at).as_secs()).unwrap_or(0))),
        Err(_) => word(at),
    }
}

/// Seconds in the largest unit that fits.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
