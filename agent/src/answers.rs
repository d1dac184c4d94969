//! What this agent was asked and what it answered: reports are kept until the controller has them on disk, and
//! afterwards for a while, so that asking twice repeats the answer and not the probe. Time in, actions out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use preflight_proto::agent::Report;
use prost::Message as _;

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The run's id.
    pub run: String,
    /// The cell's digest.
    pub cell: String,
}

/// What to do about a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It is new: probe.
    Probe,
    /// Its probe is under way.
    UnderWay,
    /// It was answered: send that again.
    Again,
}

/// Questions and answers, bounded in number, size and age.
#[derive(Debug, Default)]
pub struct Answers {
    entries: BTreeMap<Key, Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    Probing,
    Reported { report: Box<Report>, bytes: usize, acknowledged: bool },
}

impl Answers {
    /// Reports of at most this many bytes are kept.
    pub const MAX_BYTES: usize = 2 * 1024 * 1024;
    /// At most this many questions are remembered.
    pub const MAX_ENTRIES: usize = 8192;
    /// An answer is remembered this long; no run lives longer.
    pub const MAX_AGE: Duration = Duration::from_mins(10);

    /// Takes note of a question.
    pub fn ask(&mut self, key: &Key, now: Instant) -> Asked {
        self.forget_old(now);
        match self.entries.get(key).map(|entry| &entry.state) {
            Some(State::Probing) => Asked::UnderWay,
            Some(State::Reported { .. }) => Asked::Again,
            None => {
                self.entries.insert(key.clone(), Entry { since: now, state: State::Probing });
                Asked::Probe
            }
        }
    }

    /// Keeps an answer. What nobody waits for any more is dropped. Returns how many unacknowledged reports had to go to
    /// make room.
    pub fn report(&mut self, key: &Key, report: Report, now: Instant) -> usize {
        if let Some(entry) = self.entries.get_mut(key)
            && matches!(entry.state, State::Probing)
        {
            let bytes = report.encoded_len();
            *entry =
                Entry { since: now, state: State::Reported { report: Box::new(report), bytes, acknowledged: false } };
            self.bytes += bytes;
        }
        self.make_room()
    }

    /// The answer to a question, where there is one.
    pub fn get(&self, key: &Key) -> Option<&Report> {
        match &self.entries.get(key)?.state {
            State::Reported { report, .. } => Some(report),
            State::Probing => None,
        }
    }

    /// Notes that the controller has a report on disk.
    pub fn acknowledge(&mut self, key: &Key) {
        if let Some(Entry { state: State::Reported { acknowledged, .. }, .. }) = self.entries.get_mut(key) {
            *acknowledged = true;
        }
    }

    /// Forgets a run that has ended.
    pub fn cancel(&mut self, run: &str) {
        let keys: Vec<Key> = self.entries.keys().filter(|key| key.run == run).cloned().collect();
        for key in &keys {
            self.remove(key);
        }
    }

    /// The reports that the controller has not acknowledged, oldest first: what to send after a reconnect.
    pub fn unacknowledged(&self) -> Vec<Key> {
        let waiting = |entry: &Entry| matches!(entry.state, State::Reported { acknowledged: false, .. });
        let mut keys: Vec<(Instant, &Key)> =
            self.entries.iter().filter(|(_, entry)| waiting(entry)).map(|(key, entry)| (entry.since, key)).collect();
        keys.sort();
        keys.into_iter().map(|(_, key)| key.clone()).collect()
    }

    fn remove(&mut self, key: &Key) {
        if let Some(Entry { state: State::Reported { bytes, .. }, .. }) = self.entries.remove(key) {
            self.bytes -= bytes;
        }
    }

    fn forget_old(&mut self, now: Instant) {
        let old = |entry: &Entry| {
            matches!(entry.state, State::Reported { .. }) && now.saturating_duration_since(entry.since) > Self::MAX_AGE
        };
        let keys: Vec<Key> = self.entries.iter().filter(|(_, e)| old(e)).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.remove(key);
        }
    }

    fn make_room(&mut self) -> usize {
        let mut lost = 0;
        while self.bytes > Self::MAX_BYTES || self.entries.len() > Self::MAX_ENTRIES {
            let rank = |entry: &Entry| match entry.state {
                State::Reported { acknowledged, .. } => Some((!acknowledged, entry.since)),
                State::Probing => None,
            };
            let worst = self.entries.iter().filter_map(|(key, entry)| Some((rank(entry)?, key))).min();
            let Some(((unacknowledged, _), key)) = worst.map(|(rank, key)| (rank, key.clone())) else { break };
            lost += usize::from(unacknowledged);
            self.remove(&key);
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(run: &str, cell: usize) -> Key {
        Key { run: run.into(), cell: cell.to_string() }
    }

    fn report(size: usize) -> Report {
        Report { release: "x".repeat(size), ..Report::default() }
    }

    #[test]
    fn asking_twice_repeats_the_answer() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let key = key("r", 1);
        assert_eq!(answers.ask(&key, now), Asked::Probe);
        assert_eq!(answers.ask(&key, now), Asked::UnderWay);
        answers.report(&key, report(5), now);
        assert_eq!(answers.ask(&key, now), Asked::Again);
        answers.acknowledge(&key);
        assert_eq!(answers.ask(&key, now), Asked::Again, "also after it was acknowledged");
        assert_eq!(answers.get(&key), Some(&report(5)));
        let later = now + Answers::MAX_AGE + Duration::from_secs(1);
        assert_eq!(answers.ask(&key, later), Asked::Probe, "not for ever");
    }

    #[test]
    fn unacknowledged_reports_are_kept_in_order() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        for (cell, after) in [(3, 0), (1, 1), (2, 2)] {
            answers.ask(&key("r", cell), now);
            answers.report(&key("r", cell), report(1), now + Duration::from_secs(after));
        }
        answers.ask(&key("r", 4), now);
        answers.acknowledge(&key("r", 1));
        assert_eq!(answers.unacknowledged(), [key("r", 3), key("r", 2)]);
    }

    #[test]
    fn a_cancelled_run_is_forgotten_with_its_late_answers() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        answers.ask(&key("r", 1), now);
        answers.ask(&key("s", 1), now);
        answers.cancel("r");
        answers.report(&key("r", 1), report(1), now);
        assert_eq!(answers.get(&key("r", 1)), None);
        assert_eq!(answers.ask(&key("s", 1), now), Asked::UnderWay);
    }

    #[test]
    fn what_is_acknowledged_goes_first_when_room_is_short() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let half = Answers::MAX_BYTES / 2 - 100;
        for cell in 1..=2 {
            answers.ask(&key("r", cell), now);
            assert_eq!(answers.report(&key("r", cell), report(half), now), 0);
        }
        answers.acknowledge(&key("r", 2));
        answers.ask(&key("r", 3), now);
        assert_eq!(answers.report(&key("r", 3), report(half), now), 0, "nothing lost");
        assert_eq!(answers.unacknowledged(), [key("r", 1), key("r", 3)]);
        answers.ask(&key("r", 4), now);
        assert_eq!(answers.report(&key("r", 4), report(half), now + Duration::from_secs(1)), 1, "said");
        assert!(answers.bytes <= Answers::MAX_BYTES);
    }
}
