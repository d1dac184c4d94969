//! A process on a host: its log, its signals, and its end with the handle.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Host, wait_for};

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Exited {
    /// Its exit code; 128 and the signal where it was killed, as a shell says it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Exited {
    pub(super) fn new(status: ExitStatus, stdout: String, stderr: String) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        Self { code, stdout, stderr }
    }

    /// Standard output and standard error.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

impl Process {
    /// Starts `command`, whose standard error is the process's log; a second start of the same name goes on in that log.
    pub(super) fn start(host: &Host, name: &str, mut command: Command) -> Self {
        let stderr = host.log_path(name);
        let stdout = stderr.with_extension("out.log");
        let open = |path: &PathBuf| File::options().create(true).append(true).open(path).expect("open a process's log");
        command.stdin(Stdio::null()).stdout(open(&stdout)).stderr(open(&stderr));
        let what = format!("{name} on {}", host.name());
        let child = command.spawn().unwrap_or_else(|error| panic!("start {what}: {error}"));
        Self { child, what, stdout, stderr }
    }

    /// Its process id, in the lab's process namespace.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        // One that has ended already is what the caller wanted, and its id is not given away before it was waited for.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Stops its clock: it keeps its sockets and does nothing (SIGSTOP).
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it as a crash would (SIGKILL), and waits for that.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// What Ctrl-C does (SIGINT).
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Asks it to stop (SIGTERM).
    ///
    /// # Panics
    /// If it has not ended `at_most` later.
    pub fn stop(mut self, at_most: Duration) -> Exited {
        self.signal(Signal::TERM);
        self.wait(at_most)
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// If it has not ended `at_most` later.
    pub fn wait(&mut self, at_most: Duration) -> Exited {
        let what = format!("{} to end", self.what);
        let status = wait_for(&what, at_most, || self.child.try_wait().expect("wait for a process"));
        Exited::new(status, self.stdout(), self.log())
    }

    /// Whether it is still running.
    pub fn running(&mut self) -> bool {
        self.child.try_wait().expect("wait for a process").is_none()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Its resident memory in bytes, from `/proc`.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    }

    /// The CPU time that it has used, to the hundredth of a second, from `/proc`.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("a process's times");
        // The second field is a name in brackets, which may hold anything; utime and stime are fields 14 and 15 (proc(5)), in
        // hundredths of a second on every Linux that Rust runs on.
        let (_, after) = stat.rsplit_once(')').expect("a process's name");
        let ticks = |field: usize| after.split_whitespace().nth(field - 3).and_then(|ticks| ticks.parse::<u64>().ok());
        Duration::from_millis((ticks(14).expect("utime") + ticks(15).expect("stime")) * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
