//! What a fuzzer drives: a protocol's whole exchange against a server that answers with any bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use preflight_core::spec::ProbeSpec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::protocol::{Start, Wire, of};

/// Whether the exchange of `spec` calls a server that answers with `bytes` and closes what it is looking for.
///
/// The first byte says in how small pieces the others come.
pub fn exchange(spec: &ProbeSpec, bytes: &[u8]) -> bool {
    let Some(protocol) = of(spec.target.scheme) else { return false };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build() else {
        return false;
    };
    let (piece, bytes) = bytes.split_first().map_or((1, bytes), |(first, rest)| (usize::from(*first).max(1), rest));
    let mut server = Canned { bytes, piece };
    let mut wire = Wire::new(&mut server);
    let talk = async {
        if spec.target.scheme.can_upgrade() {
            match protocol.start(&mut wire, spec).await {
                Ok(Start::Speak) => {}
                Ok(Start::Secure) | Err(_) => return false,
                Ok(Start::Done(_) | Start::Show(_)) => return true,
                Ok(Start::Last(end)) => return end.is_ok() && wire.nothing_more().await.is_ok(),
            }
        }
        protocol.open(&mut wire, spec).await.is_ok()
    };
    // By a clock that stands still while there is something to do: an exchange that waits for nothing ends at once.
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), talk).await.unwrap_or(false) })
}

/// A server that says what it was told to, whatever it hears.
struct Canned<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl AsyncRead for Canned<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.piece.min(self.bytes.len()).min(buf.remaining());
        let (now, later) = self.bytes.split_at(count);
        buf.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Canned<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
