//! The product's binaries on the lab's hosts, as people start them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Api, Exited, Host, Lab, Process, wait_for};

/// How long a component may take to be ready on a busy machine.
const START: Duration = Duration::from_secs(30);
/// The longest that any command may take; its own deadlines are far shorter.
const COMMAND: &str = "150";

/// Where the controller is, in every lab.
const CONTROLLER: [&str; 2] = ["controller.lab", "10.255.0.1"];
const PIPELINE: &str = "10.255.0.2";
/// The API's port.
const API_PORT: u16 = 7443;
/// The agents' port.
const AGENT_PORT: u16 = 7444;

/// A binary of the workspace, built with the tests.
///
/// # Panics
/// If it has not been built.
pub fn binary(name: &str) -> String {
    let executable = std::env::current_exe().expect("this executable's path");
    let found = executable.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    let path = found.unwrap_or_else(|| {
        panic!("{name} is not built beside {}: run `make build`", executable.display());
    });
    path.to_string_lossy().into_owned()
}

/// Words that run a command with its clock off by `offset`, such as `-4d`. The `faketime` command would do the same from a
/// process of its own, which would be the one that is killed.
pub fn clock_off_by(offset: &str) -> [String; 3] {
    let arch = fs::read_dir("/usr/lib").expect("read /usr/lib").flatten();
    let library = arch.map(|dir| dir.path().join("faketime/libfaketime.so.1")).find(|path| path.is_file());
    let library = library.expect("libfaketime, which `make setup` installs");
    ["env".to_owned(), format!("LD_PRELOAD={}", library.display()), format!("FAKETIME={offset}")]
}

/// A controller on a host of its own, and a pipeline's host that asks it.
#[derive(Debug)]
pub struct Controller {
    /// Its host.
    pub host: Host,
    /// The host that commands run on.
    pub pipeline: Host,
    /// Its data directory.
    pub data_dir: PathBuf,
    process: Option<Process>,
    wrap: Vec<String>,
    flags: Vec<String>,
}

/// How an agent is started.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions<'a> {
    /// `--identity KEY=VALUE`, each.
    pub identity: Vec<String>,
    /// The text of its local policy file.
    pub policy: Option<&'a str>,
    /// Words in front of the command, such as `env NAME=value`.
    pub wrap: Vec<&'a str>,
    /// The join token, where it is not a fresh one for the fleet.
    pub token: Option<String>,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// Its host.
    pub host: Host,
    /// Its process.
    pub process: Process,
    /// Its state directory.
    pub state_dir: PathBuf,
}

/// What a `preflight` command came to.
#[derive(Debug, Clone)]
pub struct Preflight {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Standard output as JSON; null where it is none.
    pub json: Value,
    /// How long it took.
    pub took: Duration,
}

impl Preflight {
    fn new(exited: Exited, took: Duration) -> Self {
        let json = serde_json::from_str(&exited.stdout).unwrap_or_default();
        Self { code: exited.code, stdout: exited.stdout, stderr: exited.stderr, json, took }
    }

    /// The same command's answer, once its exit code is the one that it must be.
    ///
    /// # Panics
    /// With all that was said, if it is another.
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code; standard output:\n{}\nstandard error:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output and standard error.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// The cell `region/fleet/dependency` of a gate's JSON.
    ///
    /// # Panics
    /// If the answer has no such cell: absent is not the same as unknown.
    pub fn cell(&self, name: &str) -> &Value {
        let wanted: Vec<&str> = name.split('/').collect();
        let [region, fleet, dependency] = wanted[..] else { panic!("{name} is not region/fleet/dependency") };
        let regions = self.json["regions"].as_array().map(Vec::as_slice).unwrap_or_default();
        regions
            .iter()
            .filter(|r| r["region"] == region)
            .flat_map(|r| r["cells"].as_array().map(Vec::as_slice).unwrap_or_default())
            .find(|cell| cell["fleet"] == fleet && cell["dependency"] == dependency)
            .unwrap_or_else(|| panic!("the answer has no cell {name}:\n{}\n{}", self.stdout, self.stderr))
    }

    /// That cell's state and reason in one text: `pass`, or `fail connect_timeout`.
    pub fn state(&self, name: &str) -> String {
        let cell = self.cell(name);
        let (state, reason) = (cell["state"].as_str().unwrap_or("?"), cell["reason"].as_str());
        reason.map_or_else(|| state.to_owned(), |reason| format!("{state} {reason}"))
    }

    /// Every finding, of all regions and of each.
    pub fn findings(&self) -> Vec<&Value> {
        let regions = self.json["regions"].as_array().into_iter().flatten();
        [&self.json].into_iter().chain(regions).filter_map(|of| of["findings"].as_array()).flatten().collect()
    }
}

impl Lab {
    /// A controller with its data in memory, ready to be asked.
    pub fn controller(&self) -> Controller {
        self.controller_wrapped(&[])
    }

    /// The same, with words in front of the command.
    pub fn controller_wrapped(&self, wrap: &[&str]) -> Controller {
        let mut controller = self.controller_stopped(wrap);
        controller.start();
        controller
    }

    /// A controller that has not been started yet.
    pub fn controller_stopped(&self, wrap: &[&str]) -> Controller {
        let host = self.host("controller", &[CONTROLLER[1]]);
        host.name_address(CONTROLLER[0]);
        let pipeline = self.host("pipeline", &[PIPELINE]);
        let data_dir = host.dir().join("data");
        let wrap = wrap.iter().map(|word| (*word).to_owned()).collect();
        Controller { host, pipeline, data_dir, process: None, wrap, flags: Vec::new() }
    }
}

impl Controller {
    /// Starts it, and waits until it says that it is ready.
    pub fn start(&mut self) {
        self.launch();
        wait_for("the controller to be ready", START, || {
            let process = self.process.as_mut().expect("launched above");
            assert!(process.running(), "the controller ended:\n{}", process.log());
            let ready = self.data_dir.join("client.toml").is_file()
                && self.api().get("/-/ready").is_ok_and(|answer| answer.status == 200);
            ready.then_some(())
        });
    }

    /// Starts it, and does not wait for anything.
    pub fn launch(&mut self) -> &mut Process {
        let binary = binary("preflight-controller");
        let (data, api, agents) = (
            self.data_dir.to_string_lossy().into_owned(),
            format!("{}:{API_PORT}", CONTROLLER[1]),
            format!("{}:{AGENT_PORT}", CONTROLLER[1]),
        );
        let mut words: Vec<&str> = self.wrap.iter().map(String::as_str).collect();
        words.extend([&binary, "serve", "--data-dir", &data, "--api-listen", &api, "--agent-listen", &agents]);
        words.extend(CONTROLLER.iter().flat_map(|name| ["--advertise", name]));
        words.extend(self.flags.iter().map(String::as_str));
        self.process.insert(self.host.spawn("controller", &words))
    }

    /// Adds flags to the command at the next start.
    pub fn flags(&mut self, words: &[&str]) {
        self.flags = words.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Puts words in front of the command at the next start.
    pub fn wrap(&mut self, words: &[&str]) {
        self.wrap = words.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Its process.
    ///
    /// # Panics
    /// If it is not running.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a started controller")
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The file with address, trust and token that it wrote for the command line.
    pub fn context(&self) -> PathBuf {
        self.data_dir.join("client.toml")
    }

    /// Its API, asked from the pipeline's host with the admin token.
    pub fn api(&self) -> Api {
        let text = fs::read_to_string(self.context()).unwrap_or_default();
        let context: toml::Table = text.parse().unwrap_or_default();
        let text_of = |key: &str| context.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        Api {
            from: self.pipeline.clone(),
            address: self.host.port(API_PORT),
            server_name: CONTROLLER[0].to_owned(),
            ca_pem: text_of("ca_pem"),
            token: Some(text_of("token")),
        }
    }

    fn command(&self, words: &[&str], context: Option<&Path>) -> std::process::Command {
        let binary = binary("preflight");
        let mut command = self.pipeline.command(&[&["timeout", "-k", "1", COMMAND, &binary], words].concat());
        if let Some(context) = context {
            command.env("PREFLIGHT_CONTEXT", context);
        }
        command
    }

    /// Runs `preflight` on the pipeline's host, in whose directory it finds its files.
    pub fn preflight(&self, words: &[&str]) -> Preflight {
        self.preflight_with(words, &[])
    }

    /// The same with environment variables instead of the controller's own context file, if any are given.
    pub fn preflight_with(&self, words: &[&str], environment: &[(&str, &str)]) -> Preflight {
        let context = self.context();
        let started = Instant::now();
        let output = self
            .command(words, environment.is_empty().then_some(&context))
            .envs(environment.iter().copied())
            .output()
            .expect("run preflight");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let exited = Exited::new(output.status, text(&output.stdout), text(&output.stderr));
        assert_ne!(exited.code, 124, "preflight {} did not end in {COMMAND} s:\n{}", words.join(" "), exited.text());
        Preflight::new(exited, started.elapsed())
    }

    /// Runs `preflight` with this process's own output and terminal; its exit code.
    pub fn preflight_shown(&self, words: &[&str]) -> i32 {
        let mut command = self.command(words, Some(&self.context()));
        command.envs(["TERM", "NO_COLOR"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        let status = command.status().expect("run preflight");
        status.code().unwrap_or(-1)
    }

    /// Starts `preflight` and leaves it running.
    pub fn preflight_start(&self, name: &str, words: &[&str]) -> Process {
        Process::start(&self.pipeline, name, self.command(words, Some(&self.context())))
    }

    /// What a command that was left running came to.
    pub fn preflight_end(mut process: Process, at_most: Duration) -> Preflight {
        let started = Instant::now();
        Preflight::new(process.wait(at_most), started.elapsed())
    }

    /// Writes a file where commands find it.
    pub fn file(&self, name: &str, text: &str) {
        fs::write(self.pipeline.dir().join(name), text).expect("write a file for a command");
    }

    /// Applies an inventory.
    pub fn inventory(&self, text: &str) {
        self.file("inventory.yaml", text);
        let _ = self.preflight(&["inventory", "apply", "inventory.yaml"]).expect_code(0);
    }

    /// A join token for a fleet.
    pub fn join_token(&self, region: &str, fleet: &str, more: &[&str]) -> String {
        let words = [&["token", "join", "--region", region, "--fleet", fleet], more].concat();
        let made = self.preflight(&words).expect_code(0);
        made.stdout.trim().to_owned()
    }

    /// Starts an agent of a fleet, by default with a fresh join token, and does not wait for it.
    pub fn agent(&self, host: &Host, region: &str, fleet: &str, options: &AgentOptions) -> Agent {
        let token = options.token.clone().unwrap_or_else(|| self.join_token(region, fleet, &[]));
        let token_file = host.dir().join("join-token");
        fs::write(&token_file, token).expect("write the join token");
        let state_dir = host.dir().join("state");
        Agent { process: run_agent(host, &state_dir, options), host: host.clone(), state_dir }
    }

    /// What `preflight agents` says.
    pub fn agents(&self) -> Vec<Value> {
        let listed = self.preflight(&["agents", "-o", "json"]).expect_code(0);
        listed.json["agents"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until so many agents are connected.
    pub fn await_agents(&self, count: usize) {
        self.await_state("connected", count);
    }

    /// Waits until so many agents are in a state.
    pub fn await_state(&self, state: &str, count: usize) {
        wait_for(&format!("{count} agents to be {state}"), Duration::from_secs(90), || {
            (self.agents().iter().filter(|agent| agent["state"] == state).count() == count).then_some(())
        });
    }
}

impl Agent {
    /// Starts it again, with the state that it has.
    pub fn start(&mut self, options: &AgentOptions) {
        self.process.kill();
        self.process = run_agent(&self.host, &self.state_dir, options);
    }
}

fn run_agent(host: &Host, state_dir: &Path, options: &AgentOptions) -> Process {
    let binary = binary("preflight-agent");
    let controller = format!("https://{}:{AGENT_PORT}", CONTROLLER[0]);
    let file = |name: &str| host.dir().join(name).to_string_lossy().into_owned();
    let (state, token, policy) = (state_dir.to_string_lossy(), file("join-token"), file("policy"));
    let mut words = options.wrap.clone();
    words.extend([&binary, "run", "--controller", &controller, "--state-dir", &state, "--join-token-file", &token]);
    words.extend(options.identity.iter().flat_map(|pair| ["--identity", pair]));
    if let Some(text) = options.policy {
        fs::write(&policy, text).expect("write the agent's policy");
        words.extend(["--policy", &policy]);
    }
    host.spawn("agent", &words)
}
