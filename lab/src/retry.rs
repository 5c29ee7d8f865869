//! The lab's own failures, told apart from what it was to find out.

use crate::Error;

/// Runs `attempt`, and once more if it failed because the lab itself did:
/// emulated processors hang now and then. Says so on standard error, with the
/// count, so that a lab that gets worse is noticed.
///
/// # Errors
/// The attempt's: any that is not the lab's fault at once, the lab's the second
/// time.
pub fn try_twice<T>(mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    match attempt() {
        Err(error) if is_lab_fault(&error) => {
            eprintln!("lab failed, attempt 1 of 2: {error:#}");
            attempt()
        }
        result => result,
    }
}

fn is_lab_fault(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<Error>())
        .any(Error::is_lab_fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context as _, bail};

    fn hang() -> anyhow::Error {
        Error::LabDied {
            status: "killed".into(),
            during: "it ran".into(),
            console: crate::console::Console::new(None).tail(),
        }
        .into()
    }

    #[test]
    fn only_the_labs_own_failure_is_tried_again_and_only_once() {
        let mut attempts = 0;
        let result = try_twice(|| {
            attempts += 1;
            if attempts == 1 {
                Err(hang()).context("first")
            } else {
                Ok(attempts)
            }
        });
        assert_eq!(result.unwrap(), 2);

        let mut attempts = 0;
        let failed: anyhow::Result<()> = try_twice(|| {
            attempts += 1;
            bail!("a test failed")
        });
        assert!(failed.is_err() && attempts == 1);

        let mut attempts = 0;
        let failed: anyhow::Result<()> = try_twice(|| {
            attempts += 1;
            Err(hang())
        });
        assert!(failed.is_err() && attempts == 2);
    }
}
