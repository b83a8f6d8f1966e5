//! The runner's report: bounded, complete, and the same after it is encoded and decoded.
#![no_main]

use agentloop_contract::report::{Error, MAX_BYTES, Report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(mut report) = Report::decode(text) else { return };
    // As a runner creates it: without cuts, and with an error signature that it computed itself.
    report.cut.clear();
    report.error = report.error.map(|error| Error::new(&error.summary));
    for limit in [500, 1024, MAX_BYTES, usize::MAX] {
        let json = report.encode(limit, None).expect("the deciding fields fit into 500 bytes");
        assert!(json.len() <= limit && json.chars().all(|c| !c.is_control()), "{json}");
        let read = Report::decode(&json).expect("a complete report");
        assert_eq!(deciding(&read), deciding(&report), "deciding fields are never cut");
        assert_eq!(read.encode(usize::MAX, None).as_ref(), Some(&json), "encoding again changes nothing");
        let half = &json[..json.floor_char_boundary(json.len() / 2)];
        assert!(Report::decode(half).is_err(), "half a report is no report");
    }
});

/// The fields by which the operator decides.
fn deciding(report: &Report) -> impl PartialEq + std::fmt::Debug {
    (
        (report.version, report.end, report.exit_code, report.signal, report.changed),
        report.gate.as_ref().map(|gate| gate.ready),
        (report.no_gate, report.verify.as_ref().map(|verify| verify.passed)),
        report.error.as_ref().map(|error| error.signature.clone()),
        (report.provider_refused.clone(), report.started_at, report.finished_at),
    )
}
