//! The jobs there are.

use crate::jobs::Job;

/// Every job, in the order in which they run.
pub(crate) fn all() -> Vec<Job> {
    vec![selftest()]
}

/// The conformance suite where KVM is hardware's, or like it: its guest's ring 0 runs natively there.
fn selftest() -> Job {
    Job {
        name: "selftest".into(),
        script: "ferrite selftest --format tap".into(),
        files: Vec::new(),
        seconds: 300,
        tries: 1,
        status: 0,
        reports: true,
    }
}
