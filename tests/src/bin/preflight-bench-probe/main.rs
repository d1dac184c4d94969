//! The bench's prober: makes the probes of one [`Job`], as JSON in the file that its only argument names, and says as JSON what came of them.
#![expect(clippy::print_stdout, reason = "its answer")]
#![expect(clippy::expect_used, reason = "a bench that cannot measure ends")]

mod bare;
mod engine;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use preflight_tests::bench::{By, Done, Job};
use rustix::time::{ClockId, clock_gettime};

fn main() {
    let file = std::env::args().nth(1).expect("the file of a job");
    let text = fs::read_to_string(file).expect("read the job");
    let job: Job = serde_json::from_str(&text).expect("a job, as the bench gives it");
    preflight_probe::raise_descriptors();
    let done = match job.by {
        By::Engine => engine::run(&job),
        By::Loop => bare::run(&job),
    };
    println!("{}", serde_json::to_string(&done).expect("an answer as JSON"));
}

/// The clocks at the start of the probes: what a process does to get ready is not a probe's cost.
struct Started {
    wall: Instant,
    cpu: Duration,
}

impl Started {
    fn now() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    fn done(&self, ends: BTreeMap<String, usize>) -> Done {
        let (wall, cpu) = (self.wall.elapsed(), cpu().saturating_sub(self.cpu));
        Done {
            wall_s: wall.as_secs_f64(),
            cpu_s: cpu.as_secs_f64(),
            ends,
            resident: memory("VmRSS:"),
            peak: memory("VmHWM:"),
        }
    }
}

/// User and system time of this process.
fn cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().expect("a time since this process began")
}

/// A line of this process's status in `/proc`, in bytes.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("read this process's status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of this process's status");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
}
