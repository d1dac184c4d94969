//! `preflight gate`: asks for a verdict, fresh, and exits by it.

use std::path::PathBuf;
use std::time::Duration;

use preflight_core::plan::sha256;
use preflight_core::text::escape;
use preflight_proto::api::{Event, Gate, GateRequest, Mode, Scope};
use tokio::time::timeout_at;

use super::emergency::{self, Emergency};
use crate::client::{CallError, Client};
use crate::exit::{self, Asked, Exit, Regions};
use crate::failure::Failure;
use crate::patience::{Cause, GivenUp, Patience};
use crate::progress::Reporter;
use crate::report::{GoesOn, Missing, ReportArgs, Told};
use crate::spool::Spool;
use crate::{duration, input, words};

/// The longest to wait for the verdict, unless told otherwise.
const WAIT: Duration = Duration::from_secs(30);
/// The longest to try for a controller that cannot be asked, where there is no time.
const HURRY: Duration = Duration::from_secs(5);

/// Ask whether a release may ship: every fleet that will run it must reach what it depends on
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 proceed · 1 no verdict could be had · 2 block: a cell fails · 3 block: unknown · 4 block: locked, quarantined or not what was named · 64 usage · 130 Ctrl-C

Examples:
  preflight gate --manifest preflight.yaml --region eu --release 2025-03-31.1
  preflight gate --manifest preflight.yaml --all-regions --release 2025-03-31.1 --wait 2m -o json
  preflight gate --manifest preflight.yaml --region eu --release 2025-03-30.4 --rollback
  preflight gate --manifest preflight.yaml --region eu --release 2025-03-31.2 --break-glass --reason outage --ticket OPS-7
  preflight gate --manifest preflight.yaml --region eu --release 2025-03-31.1 --report junit=preflight.xml --report json=preflight.json
  preflight gate --manifest preflight.yaml --region eu --release 2025-03-31.1 -o github

With -o github it also adds to the files that GITHUB_STEP_SUMMARY and GITHUB_OUTPUT name: the verdict as Markdown, and the outputs
verdict, decision and id. What goes on without a verdict has no id, but break_glass or rollback, and record.
A report that cannot be written makes exit 1 of what would be 0, but not with --rollback, --break-glass or --advisory, which nothing
holds up; a block keeps its code.")]
pub(crate) struct Args {
    /// The manifest that declares the application's dependencies
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// A region that the release would ship to; may be given several times
    #[arg(
        long = "region",
        value_name = "REGION",
        required_unless_present = "all_regions",
        conflicts_with = "all_regions",
        value_delimiter = ','
    )]
    regions: Vec<String>,
    /// Every region that the application runs in
    #[arg(long)]
    all_regions: bool,
    /// What would ship
    #[arg(long, value_name = "ID")]
    release: String,
    /// Which cells are required: those that no deployed release has proven, or all
    #[arg(long, value_enum, default_value = "new")]
    scope: ScopeArg,
    /// The longest to wait for the verdict [default: 30s]. Given, it is also waited for agents that have yet to connect, where a
    /// fleet has too few; without it, such a fleet is unknown at once
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    wait: Option<Duration>,
    /// End as soon as a required cell fails
    #[arg(long)]
    fail_fast: bool,
    /// Let one sick host fail its cell
    #[arg(long)]
    strict: bool,
    /// Go back to a release that was deployed in these regions before: what is seen is shown and holds up nothing. Where no
    /// controller can be asked, or it does not accept the token or is not trusted, go on after at most five seconds, and tell it
    /// later
    #[arg(long, group = "emergency", conflicts_with_all = ["advisory", "fail_fast", "strict", "scope"])]
    rollback: bool,
    /// In an emergency: go on without a verdict where no controller can be asked, after at most five seconds, and tell
    /// it later. Where one can, its verdict counts
    #[arg(long, group = "emergency", conflicts_with = "advisory", requires_all = ["reason", "ticket"])]
    break_glass: bool,
    /// Why, with --break-glass or --rollback; kept in the audit log
    #[arg(long, value_name = "TEXT", requires = "emergency", value_parser = words::visible)]
    reason: Option<String>,
    /// Where it is tracked, with --break-glass or --rollback; kept in the audit log
    #[arg(long, value_name = "ID", requires = "emergency", value_parser = words::visible)]
    ticket: Option<String>,
    /// Exit 0 whatever the verdict, and say so; wrong usage still exits 64, and a controller that forbids it 4
    #[arg(long)]
    advisory: bool,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ScopeArg {
    New,
    All,
}

/// Runs it.
pub(crate) async fn run(
    args: Args,
    connect: impl Fn() -> Result<Client, Failure>,
    spool: &Spool,
) -> Result<Exit, Failure> {
    args.report.check()?;
    let (advisory, report, missing) = (args.advisory, args.report.clone(), missing(&args));
    let result = verdict(args, connect, spool).await;
    if let Err(GivenUp { failure, cause }) = &result {
        // A token that is wrong, or a controller that is not trusted, must not be a way around what the controller forbids.
        let excused = advisory && matches!(cause, Cause::Unavailable(_) | Cause::Slow(_));
        let goes_on = if excused { GoesOn::Advisory } else { GoesOn::No };
        report.deliver(Told::Nothing { failure, goes_on }, failure.exit, missing);
    }
    if !advisory {
        return Ok(result?);
    }
    let exit = match result {
        Ok(Exit::Proceed) => return Ok(Exit::Proceed),
        Ok(Exit::Refused) => {
            emergency::shout("ADVISORY excuses what the probes say; it lifts no lock and no quarantine.");
            return Ok(Exit::Refused);
        }
        Ok(exit) => exit,
        Err(GivenUp { failure, cause: Cause::Unavailable(_) | Cause::Slow(_) }) => {
            crate::say(&failure);
            failure.exit
        }
        Err(GivenUp { failure, cause: Cause::Stranger(_) | Cause::Refused | Cause::Other }) => return Err(failure),
    };
    emergency::shout(&format!(
        "ADVISORY: without --advisory this is exit {} ({}); it exits 0.",
        exit.code(),
        exit.meaning()
    ));
    Ok(Exit::Proceed)
}

/// A report that cannot be written holds up neither a rollback nor an emergency.
fn missing(args: &Args) -> Missing {
    if args.rollback || args.break_glass { Missing::IsSaid } else { Missing::Counts }
}

async fn verdict(args: Args, connect: impl Fn() -> Result<Client, Failure>, spool: &Spool) -> Result<Exit, GivenUp> {
    let source = input::read("manifest", &args.manifest)?;
    let application = super::manifest::application(&source)?;
    let digest = sha256(source.text.as_bytes());
    let client = connect()?;
    let id = run_id()?;
    let wait = args.wait.unwrap_or(WAIT);
    let request = GateRequest {
        id: Some(id.clone()),
        manifest: source.text,
        manifest_name: source.name,
        regions: args.regions.clone(),
        all_regions: args.all_regions,
        release: args.release.clone(),
        scope: match args.scope {
            ScopeArg::New => Scope::New,
            ScopeArg::All => Scope::All,
        },
        wait_ms: duration::millis(wait),
        fail_fast: args.fail_fast,
        strict: args.strict,
        await_agents: args.wait.is_some() && !args.rollback,
        mode: match (args.advisory, args.rollback) {
            (_, true) => Mode::Rollback,
            (true, false) => Mode::Advisory,
            (false, false) => Mode::Gate,
        },
    };
    let hurry = wait.min(HURRY);
    let patience = match (args.rollback, args.break_glass) {
        (true, _) => Patience::hurried(hurry, hurry),
        (false, true) => Patience::hurried(wait, hurry),
        (false, false) => Patience::new(wait),
    };
    let gate = match ask(&client, &request, patience).await {
        Ok(gate) => gate,
        Err(given_up) => {
            let Some(error) = goes_past(&given_up.cause, &args) else {
                if args.break_glass {
                    emergency::shout("--break-glass was not used: it is for when nobody answers, and somebody did.");
                }
                return Err(given_up);
            };
            let emergency = Emergency {
                rollback: args.rollback,
                application: &application,
                regions: &args.regions,
                release: &args.release,
                manifest_digest: &digest,
                reason: args.reason.as_deref(),
                ticket: args.ticket.as_deref(),
                error,
            };
            return Ok(emergency::proceed(&emergency, &client, spool, &args.report));
        }
    };
    let asked = Asked {
        id: &id,
        application: &application,
        release: &args.release,
        regions: if args.all_regions { Regions::All } else { Regions::Exactly(&args.regions) },
        manifest_digest: Some(&digest),
        rollback: args.rollback,
        all: matches!(args.scope, ScopeArg::All),
        now: None,
    };
    let judgement = exit::judge(&gate, &asked);
    if !judgement.objections.is_empty() {
        // Such an answer is not shown: whoever reads its `decision` would be misled.
        return Err(Failure {
            exit: judgement.exit,
            message: format!("the controller's answer cannot be relied on: {}", escaped(&judgement.objections)),
            fix: Some(
                "Do not ship on it. Check the versions of controller and command, and what stands between them."
                    .to_owned(),
            ),
        }
        .into());
    }
    if args.break_glass {
        emergency::shout(&format!(
            "--break-glass was not used: the controller answered, and its verdict counts.{}",
            instead(&gate, judgement.exit)
        ));
    }
    let missing = missing(&args);
    // A lock or a quarantine is no verdict on what was seen: nothing but the guard itself lifts it.
    let advisory = args.advisory && judgement.exit != Exit::Refused;
    Ok(args.report.deliver(Told::Verdict { gate: &gate, advisory }, judgement.exit, missing))
}

/// What to do instead of breaking the glass, as sentences.
fn instead(gate: &Gate, exit: Exit) -> String {
    match exit {
        Exit::Proceed => String::new(),
        Exit::Refused => " It lifts no lock and no quarantine; what does is said with each.".to_owned(),
        Exit::NoVerdict | Exit::Fails | Exit::Unknown | Exit::Usage | Exit::Interrupted => format!(
            " To go on all the same, somebody with the scope `override` answers for it: \
                 preflight override --verdict {} --all-blocking --reason … --ticket … --expires 1h",
            escape(&gate.id)
        ),
    }
}

/// Why no verdict could be had, where the caller may go on without one.
///
/// A rollback is decided by no verdict, so an expired token or a certificate that is not trusted must not hold it up either. Breaking
/// the glass goes past one, so nobody must have answered.
fn goes_past<'a>(cause: &'a Cause, args: &Args) -> Option<&'a str> {
    match cause {
        Cause::Unavailable(error) => (args.rollback || args.break_glass).then_some(error),
        Cause::Slow(error) | Cause::Stranger(error) => args.rollback.then_some(error),
        Cause::Refused | Cause::Other => None,
    }
}

/// Objections as one line.
pub(super) fn escaped(objections: &[String]) -> String {
    objections.iter().take(5).map(|text| escape(text)).collect::<Vec<_>>().join("; ")
}

/// Asks until there is a verdict. The id makes every attempt join the same run.
async fn ask(client: &Client, request: &GateRequest, mut patience: Patience) -> Result<Gate, GivenUp> {
    let mut progress = Reporter::new();
    loop {
        let attempt = timeout_at(patience.deadline(), stream(client, request, &mut patience, &mut progress)).await;
        match attempt.unwrap_or(Err(CallError::Late)) {
            Ok(gate) => return Ok(gate),
            Err(error) => patience.again(error, client, &mut progress).await?,
        }
    }
}

async fn stream(
    client: &Client,
    request: &GateRequest,
    patience: &mut Patience,
    progress: &mut Reporter,
) -> Result<Gate, CallError> {
    let mut lines = client.lines("/v1/gate", request, patience.connect_by()).await?;
    patience.answered();
    while let Some(event) = lines.next::<Event>().await? {
        match event {
            Event::Progress(far) => progress.run(&far),
            Event::Gate(gate) => return Ok(*gate),
            Event::Error(problem) => return Err(CallError::Problem(problem.error)),
            Event::Result(_) | Event::Done(_) => {
                return Err(CallError::Garbage("it answers a probe, and a verdict was asked for".to_owned()));
            }
        }
    }
    Err(CallError::Broken("the answer ended before the verdict".to_owned()))
}

/// A new run's id: 16 hex digits.
fn run_id() -> Result<String, Failure> {
    let random = getrandom::u64().map_err(|error| Failure::no_verdict(format!("no random numbers: {error}")))?;
    Ok(format!("{random:016x}"))
}
