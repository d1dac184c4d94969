//! What goes on without a verdict, for people.

use preflight_proto::api::Record;

use super::{UNSURE, paragraph, sentence, styled, word};

/// What was done, then by whom and why.
pub(crate) fn render(record: &Record, what: &str, sentences: &[String], width: usize) -> String {
    let regions = record.regions.iter().map(|region| word(region)).collect::<Vec<_>>().join(", ");
    let regions = if regions.is_empty() { "every region" } else { &regions };
    let first = styled(UNSURE.bold(), &format!("PROCEED by {what}"));
    let (application, release) = (word(&record.application), word(&record.release));
    let mut out = format!("{first}  without a verdict; nothing was probed  {application} {release}  {regions}\n");
    for text in sentences {
        out.push_str(&paragraph("  ", &sentence(text), width));
    }
    out
}
