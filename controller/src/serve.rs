//! `serve`: from the data directory to two open ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use jiff::Timestamp;
use preflight_core::run::RunSpec;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use crate::app::{App, Strangers};
use crate::authority::{self, Authority, CONTROLLER_RENEWAL, ServerCertificate};
use crate::follow::{self, Followed};
use crate::listen::{self, Protocol};
use crate::roster::Roster;
use crate::runs::Runs;
use crate::secret::{self, NewSecret};
use crate::store::Store;
use crate::{EXIT_USAGE, ServeOptions, agents, api};

const DEFAULT_DATA_DIR: &str = "preflight-data";
const API_PORT: u16 = 7443;
const AGENT_PORT: u16 = 7444;
const ADMIN_TOKEN_LIFE: Duration = Duration::from_hours(366 * 24);
/// The longest that an override may hold, unless told otherwise.
const LONGEST_OVERRIDE: Duration = Duration::from_hours(24);
const PRUNE_INTERVAL: Duration = Duration::from_hours(1);

/// Runs `serve` until SIGTERM or SIGINT.
pub(crate) fn main(options: ServeOptions) -> ExitCode {
    let filter = EnvFilter::try_from_env("PREFLIGHT_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal).init();
    let options = with_config(options).and_then(|options| followed(&options).map(|followed| (options, followed)));
    let (options, followed) = match options {
        Ok(both) => both,
        Err(error) => {
            tracing::error!("{error:#}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let served =
        runtime.context("failed to start the runtime").and_then(|runtime| runtime.block_on(serve(options, followed)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Fills in from the `--config` file what the flags leave open.
fn with_config(flags: ServeOptions) -> anyhow::Result<ServeOptions> {
    let Some(path) = &flags.config else { return Ok(flags) };
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file: ServeOptions = toml::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(ServeOptions {
        data_dir: flags.data_dir.or(file.data_dir),
        config: None,
        api_listen: flags.api_listen.or(file.api_listen),
        agent_listen: flags.agent_listen.or(file.agent_listen),
        advertise: if flags.advertise.is_empty() { file.advertise } else { flags.advertise },
        target_rate: flags.target_rate.or(file.target_rate),
        inventory: flags.inventory.or(file.inventory),
        inventory_every: flags.inventory_every.or(file.inventory_every),
        inventory_max_age: flags.inventory_max_age.or(file.inventory_max_age),
        longest_override: flags.longest_override.or(file.longest_override),
        forbid_advisory: flags.forbid_advisory || file.forbid_advisory,
    })
}

async fn serve(options: ServeOptions, followed: Option<Arc<Followed>>) -> anyhow::Result<()> {
    let dir = options.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
    let any = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let api_address = options.api_listen.unwrap_or(any(API_PORT));
    let agent_address = options.agent_listen.unwrap_or(any(AGENT_PORT));
    raise_descriptor_limit();
    make_private_dir(&dir)?;
    let _lock = lock(&dir)?;

    let known = Authority::exists(&dir);
    let store = Store::open(&dir, known).await?;
    if !known && !store.agents().await?.is_empty() {
        bail!(
            "{} has agents, but the authority that they trust (authority.key, authority.pem) is missing beside it: \
             put both files back from a backup, or start with an empty data directory (every agent must then enrol again)",
            dir.join("preflight.db").display()
        );
    }
    let authority = Authority::open(&dir)?;
    let certificate = ServerCertificate::new(&authority, names(&options.advertise, api_address, agent_address))?;
    let api_tls = authority::api_tls(certificate.clone())?;
    let agent_tls = authority::agent_tls(&authority, certificate.clone())?;

    let now = Timestamp::now();
    store.all_agents_gone(now).await?;
    let roster = Arc::new(Roster::new(&store.agents().await?, now));
    let runs = Runs::new(store.clone(), roster.clone(), followed.clone());
    let api_listener = bind(api_address, "--api-listen").await?;
    let agent_listener = bind(agent_address, "--agent-listen").await?;
    let ports = vec![api_listener.local_addr()?.port(), agent_listener.local_addr()?.port()];
    let target_rate = options.target_rate.unwrap_or(RunSpec::TARGET_RATE);
    let (strangers, quota) = (Strangers::default(), Arc::default());
    let app = Arc::new(App {
        store,
        authority,
        roster,
        runs,
        quota,
        target_rate,
        followed,
        longest_override: options.longest_override.map_or(LONGEST_OVERRIDE, |span| span.0),
        allow_advisory: !options.forbid_advisory,
        strangers,
        ports,
    });
    let url = url(&options.advertise, api_listener.local_addr()?);
    let client = write_client_file(&app, &dir, &url).await?;

    let grpc = tonic::service::Routes::new(agents::service(app.clone())).into_axum_router();
    tokio::spawn(listen::serve(agent_listener, agent_tls, grpc, Protocol::Agents));
    if let Some(followed) = &app.followed {
        let (first, read) = oneshot::channel();
        tokio::spawn(followed.clone().run(app.clone(), first));
        // A gate that comes at once must not find an inventory that was never read. What is slow holds nothing up for long.
        let _ = tokio::time::timeout(follow::FIRST_READ, read).await;
    }
    let resumed = app.runs.resume(None, now).await?.len();
    tokio::spawn(listen::serve(api_listener, api_tls, api::router(app.clone()), Protocol::Api));
    tokio::spawn(housekeeping(app, certificate));
    tracing::info!(
        api = url, agents = %agent_address, data_dir = %dir.display(), client = %client.display(), resumed, "serving"
    );

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    tracing::info!("stopped; open runs are taken up at the next start");
    Ok(())
}

/// The inventory's source, if it has one.
fn followed(options: &ServeOptions) -> anyhow::Result<Option<Arc<Followed>>> {
    let every = options.inventory_every.map_or(follow::EVERY, |span| span.0);
    let max_age = options.inventory_max_age.map_or(follow::MAX_AGE, |span| span.0);
    let Some(place) = &options.inventory else { return Ok(None) };
    let followed = Followed::new(place, every, max_age).map_err(|error| anyhow!("--inventory: {error}"))?;
    Ok(Some(Arc::new(followed)))
}

/// Each agent is a descriptor.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
}

fn make_private_dir(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let failed = || format!("failed to make the data directory {}", dir.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(failed)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).with_context(failed)
}

/// Two controllers on one data directory would each think that they alone decide.
fn lock(dir: &Path) -> anyhow::Result<std::fs::File> {
    let path = dir.join("lock");
    let file = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another controller is running on {}: stop it, or give this one another --data-dir", dir.display())
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address} ({flag})"))
}

/// The names of the controller's certificate: those advertised, and what reaches it on its own host.
fn names(advertise: &[String], api: SocketAddr, agents: SocketAddr) -> Vec<String> {
    let mut names = advertise.to_vec();
    let local = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), api.ip(), agents.ip()];
    names.extend(local.into_iter().filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    names.push("localhost".to_owned());
    names.sort();
    names.dedup();
    names
}

fn url(advertise: &[String], listen: SocketAddr) -> String {
    let port = listen.port();
    match advertise.first() {
        Some(name) if name.contains(':') => format!("https://[{name}]:{port}"),
        Some(name) => format!("https://{name}:{port}"),
        None if listen.ip().is_unspecified() => format!("https://127.0.0.1:{port}"),
        None => format!("https://{listen}"),
    }
}

/// What the CLI needs to reach this controller.
#[derive(Debug, Serialize, Deserialize)]
struct ClientFile {
    url: String,
    token: String,
    ca_pem: String,
}

/// Writes `client.toml` with address, trust and an admin token; a file that is there keeps its token.
async fn write_client_file(app: &App, dir: &Path, url: &str) -> anyhow::Result<PathBuf> {
    let path = dir.join("client.toml");
    let now = Timestamp::now();
    let old: Option<ClientFile> = std::fs::read_to_string(&path).ok().and_then(|text| toml::from_str(&text).ok());
    let mut token = None;
    if let Some(old) = old
        && let Some((id, secret)) = secret::split_api_token(&old.token)
        && app.store.api_token(id, secret, now).await?.is_some()
    {
        token = Some(old.token);
    }
    let token = if let Some(token) = token {
        token
    } else {
        let secret = NewSecret::new()?;
        let expires = now.checked_add(ADMIN_TOKEN_LIFE)?;
        app.store.put_api_token(&secret, "admin", "admin", now, expires).await?;
        app.audit("controller", "token create", &secret.id, "", "admin: admin, in client.toml").await;
        tracing::info!(path = %path.display(), "made an admin token");
        secret.api_token()
    };
    let client = ClientFile { url: url.to_owned(), token, ca_pem: app.authority.root_pem().to_owned() };
    authority::write_private(&path, toml::to_string(&client)?.as_bytes())?;
    Ok(path)
}

/// Renews the controller's certificate and drops what is too old to keep.
async fn housekeeping(app: Arc<App>, certificate: Arc<ServerCertificate>) {
    let mut renewal = tokio::time::interval_at(tokio::time::Instant::now() + CONTROLLER_RENEWAL, CONTROLLER_RENEWAL);
    let mut prune = tokio::time::interval(PRUNE_INTERVAL);
    loop {
        tokio::select! {
            _ = renewal.tick() => match certificate.renew(&app.authority) {
                Ok(()) => tracing::info!("renewed the controller's certificate"),
                Err(error) => tracing::error!(%error, "failed to renew the controller's certificate"),
            },
            _ = prune.tick() => if let Err(error) = app.store.prune(Timestamp::now()).await {
                tracing::error!(%error, "failed to drop old runs");
            },
        }
    }
}
