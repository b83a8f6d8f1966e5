//! Finds the line of an output that names the cause of a failure.
//!
//! Tools end every failed run with the same line, whatever failed: `make: *** [test] Error 1`. Such lines do not
//! identify an error; the lines before them that name what failed do.

use std::sync::LazyLock;

use agentloop_contract::{
    error::{signature_of_all, summary},
    report::Error,
};
use regex_lite::Regex;

use super::first_chars;

/// Lines that say that something failed, but never what.
const CONSTANT: &[&str] = &[
    // make, ninja, just, task
    r"^g?make(\[\d+\])?: \*\*\* (\[.*\] Error \d+|\[.*\] Terminated|Waiting for unfinished jobs)",
    r"^g?make(\[\d+\])?: (Leaving|Entering) directory|^g?make(\[\d+\])?: Target .* not remade",
    r"^ninja: build stopped|^(?i:error: recipe .* failed)|^task: Failed to run task",
    // npm, yarn, pnpm, bun, turbo, nx
    r"^npm (ERR!|error|warn|notice)\s*$|^npm (ERR!|error) (code (E?LIFECYCLE|\d+)|errno|path |command |workspace |location |Lifecycle script|Failed at the|This is probably not|A complete log|To see a list|Exit status|\S+@\S+ \S+: `|\s|/)",
    r"^npm notice|^(error|ERROR)\s+Command failed with exit code|^info Visit https://yarnpkg|ELIFECYCLE|^error: script .* exited with code|^(ERROR|error)\s+run failed: command",
    r"^(Error|error): Test failed\. See above|^\s*(Tasks|Cached|Failed|Time):\s",
    // cargo and rustc
    r"^error: (could not compile|aborting due to|test failed, to rerun|\d+ targets? failed|build failed|process didn't exit)|^For more information about this error|^Some errors have detailed|^warning: (build failed|`.*generated)|^test result: |^failures:$|^error: doctest failed",
    r"^(note|hint|help): (run with|Some details are omitted|this error originates|to rerun)|^stack backtrace:",
    // go
    r"^FAIL$|^exit status \d+$|^FAIL\s+\S+\s+(\[build failed\]|[\d.]+s|\(cached\))$",
    // pytest, unittest, tox
    r"^[=\-_!*~#+.\s]{3,}$|^=+ .* =+$|^!+ .* !+$|^\d+ (failed|passed|errors?|skipped)\b.* in [\d.]+|^FAILED \((failures|errors)=|^Ran \d+ tests? in|^\s*\S+: FAIL code \d+|^\s*evaluation failed",
    // jest, vitest, mocha, node:test
    r"^\s*(Test Suites|Tests|Snapshots|Time|Test Files|Start at|Duration|Ran all test suites)(:|\s+\d|\.|\b.*\d)|^\s*Ran all test suites|^\s*\d+ (failing|passing|pending)\b|^[#ℹ] (tests|suites|pass|fail|cancelled|skipped|todo|duration_ms)\b|^\d+\.\.\d+$",
    // JVM, .NET
    r"^\[INFO\]|^\[ERROR\]\s*$|^\[ERROR\] (Failed to execute goal|-> \[Help|To see the full|Re-run Maven|For more information|\[Help|Please refer|There are test failures|Tests run:|Failures:|Errors:|After correcting)",
    r"^BUILD (FAILURE|FAILED)|^FAILURE: Build failed|^\* (Try|Exception is|What went wrong|Where):|^> (Run with|Get more help|There were failing tests)|^\d+ actionable tasks?|^Execution failed for task|^Build FAILED|^\s*\d+ (Error|Warning)\(s\)|^Time Elapsed|^Failed!\s+- Failed",
    // compilers and linters: counts and offers
    r"^compilation terminated|^collect2: error|^\d+ (errors?|warnings?)( and \d+ (errors?|warnings?))?( generated)?\.?$|^Found \d+ (errors?|problems?|warnings?)|^✖ \d+ problems?|^\s*\d+ errors? and \d+ warnings? potentially|^\[\*\] \d+ |^No fixes available|^ERROR: .* did not complete successfully",
    // ctest, phpunit, rspec, rake, composer
    r"^Errors while running CTest|^The following tests FAILED|^\d+% tests passed|^Total Test time|^(FAILURES|ERRORS)!|^Tests: \d+, Assertions|^\d+ examples?, \d+ failure|^Failed examples:|^rake aborted!|^\(See full trace|^Tasks: TOP|^Script .* returned with error code",
    // CI, shells and runtimes
    r"^(##\[error\]|Error: |::error::)?Process completed with exit code|^ERROR: Job failed|^Cleaning up (project|file)|^Command failed with exit code|^(command )?exit(ed)?( with)?( code| status)?:? \d+$|^script returned exit code",
    r"^Node\.js v\d|^Bun v\d|^Deno \d|^\(Use `node --trace|^\(node:\d+\)|^\s*at .*[(:]\d+:?\d*\)?$|^\s*at .* \((native|<anonymous>|node:.*)\)$|^\s+(errno|code|syscall|address|port|path|hostname|signal|status|spawnargs|stdout|stderr): .*$|^\s*\d+: [\w<].*::|^\s+File \x22.*\x22, line \d+",
];

/// Lines that name what failed.
const FAILING: &[&str] = &[
    r"^(FAIL|FAILED|ERROR|FAILURE)(:| |\s)\s*\S|^\s*--- FAIL:|^\s*not ok \d+|^\s*[✗✘×✖✕●] \S|^\[(FAIL|ERROR|FAILED)\] ",
    r"^(error|Error|fatal|panic|E  )(\[\w+\])?(:|\s{2,})\s*\S|^\s*\w[\w.]*(Error|Exception|Warning)(:| ) ?\S|^thread '.*' .*panicked at",
    r"(:|\)) (fatal )?error( \w+)?: |: error TS\d|\.\.\. (FAILED|FAIL|ERROR|failed)$| FAILED( +\[ *\d+%\])?$|\(Failed\)$|: (FAIL|FAILED)$",
    r"^[^\s:]+\.\w+:\d+(:\d+)?:? (error|[A-Z]+\d+)",
];

static CONSTANTS: LazyLock<Vec<Regex>> = LazyLock::new(|| compile(CONSTANT));
static FAILINGS: LazyLock<Vec<Regex>> = LazyLock::new(|| compile(FAILING));

/// How many characters of a line are examined.
const LINE_CHARS: usize = 500;

fn compile(patterns: &[&str]) -> Vec<Regex> {
    patterns.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect()
}

fn matches(patterns: &[Regex], line: &str) -> bool {
    let start = first_chars(line, LINE_CHARS);
    patterns.iter().any(|pattern| pattern.is_match(start))
}

/// Whether a line is the same after every failure.
pub fn is_constant(line: &str) -> bool {
    !line.chars().any(char::is_alphanumeric)
        || matches(&CONSTANTS, line.trim_end())
        || matches(&CONSTANTS, line.trim())
}

/// The line that most likely names the cause: the last one that is not the same after every failure, or the last one if
/// all are.
pub fn line<'a>(lines: &[&'a str]) -> Option<&'a str> {
    let visible = || lines.iter().rev().copied().filter(|line| !line.trim().is_empty());
    visible().find(|line| !is_constant(line)).or_else(|| visible().next())
}

/// The error of a failed command. It is computed from all lines that name something that failed, in any order; if there
/// are none, from the line that most likely names the cause.
pub fn error(lines: &[String]) -> Option<Error> {
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let failing: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| !is_constant(line) && matches(&FAILINGS, line.trim_end()))
        .collect();
    match failing.first() {
        Some(first) => {
            Some(Error { signature: signature_of_all(failing.iter().copied()), summary: summary(first) })
        }
        None => line(&lines).map(Error::new),
    }
}

#[cfg(test)]
mod tests;
