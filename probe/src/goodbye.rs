//! Goodbyes: they make nobody wait, and are not cut off either where somebody asks.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::tls::Metered;

/// What a peer has to end its side.
const PATIENCE: Duration = Duration::from_millis(250);
/// The most that is read of what it still says.
const MOST: usize = 64 * 1024;

/// The goodbyes under way, each a connection on which this side has said its last word. What the peer still sends (session tickets, the
/// rest of an answer) is read, since a close with unread data is a reset, which servers count as an error.
#[derive(Debug)]
pub(crate) struct Goodbyes {
    under_way: Arc<watch::Sender<usize>>,
    most: usize,
}

impl Goodbyes {
    /// At most so many at once; beyond that a connection is closed without waiting for its peer.
    pub(crate) fn new(most: usize) -> Self {
        Self { under_way: Arc::new(watch::Sender::new(0)), most }
    }

    /// Leaves a connection.
    pub(crate) fn tcp(&self, mut stream: TcpStream) {
        let Some(one) = self.begin() else { return };
        // This does not wait.
        let _ = stream.shutdown().now_or_never();
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, drained(stream)).await;
            drop(one);
        });
    }

    /// Leaves inside TLS. What comes after that is not deciphered: nobody wants to know.
    pub(crate) fn tls(&self, mut stream: Box<TlsStream<Metered>>) {
        let one = self.begin();
        let said = stream.shutdown().now_or_never();
        let Some(one) = one else { return };
        if said.is_some() {
            let stream = stream.into_inner().0.into_inner();
            tokio::spawn(async move {
                let _ = timeout(PATIENCE, drained(stream)).await;
                drop(one);
            });
        } else {
            tokio::spawn(async move {
                let all = async {
                    let _ = stream.shutdown().await;
                    drained(stream.into_inner().0.into_inner()).await;
                };
                let _ = timeout(PATIENCE, all).await;
                drop(one);
            });
        }
    }

    fn begin(&self) -> Option<UnderWay> {
        self.under_way.send_modify(|count| *count += 1);
        let one = UnderWay(self.under_way.clone());
        // Not in one expression: the guard would still be held when one too many is dropped, which takes the lock again.
        let fits = *self.under_way.borrow() <= self.most;
        fits.then_some(one)
    }

    /// Waits until none is under way; not much longer than one takes.
    pub(crate) async fn said(&self) {
        let mut under_way = self.under_way.subscribe();
        let _ = timeout(PATIENCE + Duration::from_millis(50), under_way.wait_for(|count| *count == 0)).await;
    }
}

/// One of them; it ends when this is dropped, however its task does.
struct UnderWay(Arc<watch::Sender<usize>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// Reads until the peer ends, or has said too much.
async fn drained(stream: TcpStream) {
    let mut left = MOST;
    while left > 0 {
        let read = poll_fn(|cx| {
            ready!(stream.poll_read_ready(cx))?;
            Poll::Ready(read_some(&stream))
        });
        match read.await {
            Ok(0) => return,
            Ok(count) => left = left.saturating_sub(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

fn read_some(stream: &TcpStream) -> io::Result<usize> {
    stream.try_read(&mut [0; 2048])
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn goodbyes_can_be_waited_for_and_are_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let goodbyes = Goodbyes::new(1);
        goodbyes.said().await;
        let (near, (mut far, _)) = tokio::try_join!(TcpStream::connect(address), listener.accept()).unwrap();
        goodbyes.tcp(near);
        // A peer that has more to say, and then ends.
        let (second, (mut other, _)) = tokio::try_join!(TcpStream::connect(address), listener.accept()).unwrap();
        goodbyes.tcp(second);
        assert_eq!(other.read(&mut [0]).await.unwrap(), 0, "one too many is closed");
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0, "it hears the end");
        far.write_all(&[0; 10_000]).await.unwrap();
        drop(far);
        let begin = Instant::now();
        goodbyes.said().await;
        assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
        assert_eq!(*goodbyes.under_way.borrow(), 0);
        // One that never ends is not waited for long.
        let (near, (_far, _)) = tokio::try_join!(TcpStream::connect(address), listener.accept()).unwrap();
        goodbyes.tcp(near);
        goodbyes.said().await;
        assert_eq!(*goodbyes.under_way.borrow(), 0);
    }
}
