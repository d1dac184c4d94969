//! How the agent comes by a certificate: with a join token at first, with the certificate that it has from then on.
//! Each time with a new key that never leaves this host; all that is sent of it is its public half.

use std::path::Path;
use std::time::Duration;

use preflight_proto::agent;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::address::ControllerAddress;
use crate::dial::{DialError, Link, dial};
use crate::refusal;
use crate::state::Credentials;
use crate::token::{Fingerprint, JoinToken, TokenError};
use crate::trust;

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is no join token to use.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The controller could not be reached, or is not the one that the token names.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The controller said no, or broke off.
    #[error("the controller answered: {}", refusal::describe(.0))]
    Call(Box<tonic::Status>),
    /// The controller did not answer.
    #[error("the controller did not answer in {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
    /// A key could not be made.
    #[error("cannot make a key: {0}")]
    Key(#[from] rcgen::Error),
    /// What came back does not fit: the authority is another one, or the certificate is not for this key.
    #[error("the controller issued a certificate of no use: {0}")]
    Unfit(String),
}

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Trades the join token for a certificate. The token goes to nobody but the authority that it names.
pub async fn enrol(controller: &ControllerAddress, token_file: &Path) -> Result<Credentials, EnrolError> {
    let token = JoinToken::read(token_file)?;
    let tls = trust::enrolling(token.authority.clone()).map_err(|error| EnrolError::Unfit(error.to_string()))?;
    let mut link = dial(controller, tls).await?;
    let key = KeyPair::generate()?;
    let request = agent::EnrolRequest { token: token.reveal().to_owned(), public_key: key.subject_public_key_info() };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, link.client.enrol(request)).await;
    let issued = answer.map_err(|_| EnrolError::Silent)?.map_err(|status| EnrolError::Call(Box::new(status)))?;
    checked(&key, issued.into_inner(), &token.authority)
}

/// Trades the certificate of this connection for its successor.
pub async fn renew(mut link: Link, current: Credentials) -> Result<Credentials, EnrolError> {
    let key = KeyPair::generate()?;
    let request = agent::RenewRequest { public_key: key.subject_public_key_info() };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, link.client.renew(request)).await;
    let issued = answer.map_err(|_| EnrolError::Silent)?.map_err(|status| EnrolError::Call(Box::new(status)))?;
    checked(&key, issued.into_inner(), &Fingerprint::of(&current.authority))
}

fn checked(key: &KeyPair, issued: agent::Credentials, authority: &Fingerprint) -> Result<Credentials, EnrolError> {
    if Fingerprint::of(&issued.authority) != *authority {
        return Err(EnrolError::Unfit("it names another authority than before".to_owned()));
    }
    let credentials = Credentials {
        key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        certificate: CertificateDer::from(issued.certificate),
        authority: CertificateDer::from(issued.authority),
    };
    // Refuses a certificate that is not for this key, before it replaces one that works.
    trust::mutual(&credentials).map_err(|error| EnrolError::Unfit(error.to_string()))?;
    Ok(credentials)
}
