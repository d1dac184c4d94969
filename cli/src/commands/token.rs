//! `preflight token`: join tokens for agents, API tokens for people and pipelines.

use std::io::Write as _;
use std::time::Duration;

use hyper::Method;
use preflight_core::text::escape;
use preflight_proto::api::{ApiTokenRequest, JoinTokenRequest, NewToken, TokenList};
use serde::de::IgnoredAny;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::{duration, render};

/// Make, list and revoke tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  preflight token join --region eu --fleet web > join-token
  preflight token create --name ci --scope gate --expires 30d
  preflight token list")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print a token with which agents enrol for a fleet
    #[command(after_help = "\
Examples:
  preflight token join --region eu --fleet web > join-token
  preflight token join --region eu --fleet web --uses 20 --ttl 30d --source 10.0.0.0/16")]
    Join {
        /// The region that agents enrol for
        #[arg(long)]
        region: String,
        /// The fleet that agents enrol for
        #[arg(long)]
        fleet: String,
        /// How long it lives
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration::parse)]
        ttl: Duration,
        /// How many agents it enrols
        #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// The range of addresses that it works from; must be given for a life of more than 24 hours
        #[arg(long, value_name = "CIDR")]
        source: Option<String>,
    },
    /// Print a token for the API
    #[command(after_help = "Example:\n  preflight token create --name ci --scope gate,read --expires 30d")]
    Create {
        /// Whose it is
        #[arg(long)]
        name: String,
        /// What it may do; may be given several times
        #[arg(long = "scope", value_enum, required = true, value_delimiter = ',')]
        scopes: Vec<Scope>,
        /// How long it lives
        #[arg(long, value_name = "TIME", default_value = "30d", value_parser = duration::parse)]
        expires: Duration,
    },
    /// List the tokens, without their secrets
    #[command(after_help = "Example:\n  preflight token list -o json")]
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make a token worthless
    #[command(after_help = "Example:\n  preflight token revoke t-3f9a")]
    Revoke {
        /// The token's id, as the list shows it
        id: String,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Scope {
    Read,
    Probe,
    Gate,
    Release,
    Override,
    Admin,
}

impl Scope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Probe => "probe",
            Self::Gate => "gate",
            Self::Release => "release",
            Self::Override => "override",
            Self::Admin => "admin",
        }
    }
}

/// Runs it.
pub(crate) async fn run(args: Args, client: &Client) -> Result<Exit, Failure> {
    match args.command {
        Command::Join { region, fleet, ttl, uses, source } => {
            let what = format!("enrols {uses} for {}/{}", escape(&region), escape(&fleet));
            let body = JoinTokenRequest { region, fleet, ttl_s: seconds(ttl), uses, source };
            print(&client.call(Method::POST, "/v1/tokens/join", Some(&body)).await?.body, &what)?;
        }
        Command::Create { name, scopes, expires } => {
            let scopes: Vec<String> = scopes.into_iter().map(|scope| scope.as_str().to_owned()).collect();
            let what = format!("may {} as {}", scopes.join(", "), escape(&name));
            let body = ApiTokenRequest { name, scopes, ttl_s: seconds(expires) };
            print(&client.call(Method::POST, "/v1/tokens", Some(&body)).await?.body, &what)?;
        }
        Command::List { output } => {
            let list: TokenList = client.get("/v1/tokens").await?.body;
            if output.is_json() {
                output::json(&list)?;
            } else {
                output::text(&render::tokens::render(&list, output::width()))?;
            }
        }
        Command::Revoke { id } => {
            client.call::<IgnoredAny>(Method::DELETE, &format!("/v1/tokens/{}", segment(&id)), None::<&()>).await?;
            output::text(&format!("{} is revoked.\n", escape(&id)))?;
        }
    }
    Ok(Exit::Proceed)
}

/// Whole seconds, at least one.
fn seconds(span: Duration) -> u64 {
    span.as_secs().max(1)
}

/// The token alone on stdout, so that it can be piped; what there is to know of it on stderr.
fn print(token: &NewToken, what: &str) -> Result<(), Failure> {
    output::text(&format!("{}\n", preflight_core::text::escape_to(&token.token, 4_096)))?;
    let (id, until) = (escape(&token.id), render::moment(&token.expires_at));
    // The token is out; that the remark is not hurts nobody.
    let _ = writeln!(anstream::stderr(), "Token {id} {what} until {until}. It is shown this once.");
    Ok(())
}
