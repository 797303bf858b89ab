//! One test for each transcript, and one for Python's client.

use std::process::ExitCode;

use conformance::transcript::{ALL, Transcript};
use conformance::{compare_group, python, record};
use libtest_mimic::{Arguments, Failed, Trial};

fn agrees(name: &'static str, text: &str) -> Result<(), Failed> {
    let transcript = Transcript::read(name, text).map_err(failed)?;
    let report = compare_group(&transcript).map_err(failed)?;
    if report.agrees() && report.exchanges() > 0 {
        return Ok(());
    }
    Err(report.to_string().into())
}

fn failed(error: impl std::fmt::Debug) -> Failed {
    format!("{error:?}").into()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Emulated machines at the same time would show nothing but timeouts.
    arguments.test_threads.get_or_insert(1);
    let transcripts = ALL.into_iter().map(|(name, text)| {
        Trial::test(format!("both_say_the_same::{name}"), move || {
            agrees(name, text)
        })
    });
    let python = Trial::test("pythons_client_holds_a_session", || {
        python::session().map(drop).map_err(failed)
    });
    let recording = Trial::test("the_recording_is_what_qemu_says", || {
        record::check().map_err(failed)
    });
    let trials = transcripts.chain([recording, python]).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
