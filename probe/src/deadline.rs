//! Deadlines that blame nobody for this process's own stalls.

use std::time::Duration;

use preflight_core::reason::Void;
use tokio::time::{Instant, timeout_at};

use crate::failure::Failure;

/// A deadline that is noticed later than this says more about this host than about the target: the process was stopped
/// or starved, and answers may have waited unread.
pub(crate) const LATE: Duration = Duration::from_millis(50);

/// Runs `future` until `deadline`; none if that passed and was noticed in time.
pub(crate) async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Result<Option<T>, Failure> {
    match timeout_at(deadline, future).await {
        Ok(value) => Ok(Some(value)),
        Err(_) => noticed(deadline).map(|()| None),
    }
}

/// Void if `due` was long ago.
pub(crate) fn noticed(due: Instant) -> Result<(), Failure> {
    let late = due.elapsed();
    if late <= LATE {
        return Ok(());
    }
    let detail = format!("this process was stopped or starved: a deadline was noticed {} ms late", late.as_millis());
    Err(Failure::void(Void::LocalResources, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stall_of_this_process_is_not_the_targets_silence() {
        let soon = Instant::now() + Duration::from_millis(20);
        let never = std::future::pending::<()>();
        assert_eq!(until(soon, never).await, Ok(None));
        let soon = Instant::now() + Duration::from_millis(20);
        let stalled = until(soon, std::future::pending::<()>());
        let (end, ()) = tokio::join!(stalled, async { std::thread::sleep(Duration::from_millis(150)) });
        assert_eq!(end.unwrap_err().outcome.reason(), Some("local_resources"));
    }
}
