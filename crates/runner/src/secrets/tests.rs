use std::time::Instant;

use agentloop_contract::report::{End, MAX_BYTES, Usage, Verified};
use proptest::prelude::*;

use super::*;

fn secrets(variables: &[(&str, &str)]) -> Secrets {
    Secrets::of(variables.iter().map(|(name, value)| (name.into(), value.into())))
}

#[track_caller]
fn masked(text: &str, expected: &str) {
    assert_eq!(Secrets::default().mask(text), expected);
}

#[track_caller]
fn kept(text: &str) {
    masked(text, text);
}

#[test]
fn a_variable_whose_name_indicates_a_credential_is_masked() {
    for name in [
        "ANTHROPIC_API_KEY",
        "GITHUB_TOKEN",
        "DB_PASSWORD",
        "mysql_passwd",
        "clientSecret",
        "AWS_CREDENTIALS",
        "NPM_CONFIG__AUTH",
        "OPENAI_APIKEY",
        "SSHPASS",
        "MYSQL_PWD",
        "SESSION_COOKIE",
        "SENTRY_DSN",
        "AGENTLOOP_REPORT_KEY",
    ] {
        assert_eq!(secrets(&[(name, "swordfish")]).mask("no swordfish here"), "no *** here", "{name}");
    }
    for name in ["PATH", "HOME", "GIT_AUTHOR_NAME", "AUTHORITY", "PWD", "OLDPWD", "AGENTLOOP_TASK", "LANG"] {
        assert_eq!(secrets(&[(name, "swordfish")]).mask("no swordfish here"), "no swordfish here", "{name}");
    }
}

#[test]
fn a_short_value_and_the_path_of_a_file_are_not_masked() {
    assert_eq!(secrets(&[("A_KEY", "seven77")]).mask("seven77"), "seven77");
    assert_eq!(secrets(&[("A_KEY", "größer78")]).mask("größer78"), "***");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().display().to_string();
    assert_eq!(secrets(&[("TOKEN_FILE", &path)]).mask(&path), path);
    assert_eq!(secrets(&[("SECRET", "/no/such/file")]).mask("/no/such/file"), "***");
}

#[test]
fn a_value_is_masked_however_it_is_written() {
    let value = "pass\"wörd\\/ & more+=";
    let all = secrets(&[("THE_SECRET", value)]);
    let json = serde_json::to_string(value).expect("JSON");
    for text in [
        value.to_owned(),
        json.clone(),
        serde_json::to_string(&json).expect("JSON"),
        "\"pass\\\"w\\u00f6rd\\\\/ & more+=\"".to_owned(),
        "pass%22w%C3%B6rd%5C%2F%20%26%20more%2B%3D".to_owned(),
        "pass%22w%c3%b6rd%5c%2f%20%26%20more%2b%3d".to_owned(),
        "pass%22w%C3%B6rd%5C%2F+%26+more%2B%3D".to_owned(),
    ] {
        let masked = all.mask(&format!("x {text} y"));
        assert!(
            masked == "x *** y" || masked == "x \"***\" y" || masked == r#"x "\"***\"" y"#,
            "{text}: {masked}"
        );
    }
}

#[test]
fn a_value_in_base64_is_masked_at_every_offset() {
    let value = "correct horse battery";
    let all = secrets(&[("THE_SECRET", value)]);
    let engine = base64::engine::general_purpose::STANDARD;
    for before in ["", "u", "us", "use", "user:"] {
        let text = base64::Engine::encode(&engine, format!("{before}{value}:x"));
        let masked = all.mask(&text);
        assert!(masked.contains(MASK) && masked.len() < 18, "{text}: {masked}");
    }
}

#[test]
fn each_line_and_each_named_part_of_a_value_is_masked() {
    let all = secrets(&[
        ("DEPLOY_KEY", "first line of it\nsecond line of it\n\nx\n"),
        (
            "GCP_CREDENTIALS",
            r#"{"type":"service_account","private_key":"one line\nand another","nested":{"token":"abcdefgh1"}}"#,
        ),
        (
            "NPMRC_SECRET",
            "registry=https://registry.example\n//registry.example/:_authToken=dGhpcyBpcyBpdA\n",
        ),
        ("DATABASE_URL", "postgres://me:hunter2hunter2@db.example/app"),
    ]);
    masked_by(&all, "a first line of it b", "a *** b");
    masked_by(&all, "second line of it", "***");
    masked_by(&all, "one line, and another, abcdefgh1", "***, ***, ***");
    masked_by(&all, "is it dGhpcyBpcyBpdA?", "is it ***?");
    masked_by(&all, "the password hunter2hunter2", "the password ***");
    masked_by(&all, "service_account on db.example", "service_account on db.example");
}

#[track_caller]
fn masked_by(secrets: &Secrets, text: &str, expected: &str) {
    assert_eq!(secrets.mask(text), expected);
}

#[test]
fn values_that_overlap_are_masked_together() {
    let all = secrets(&[("A_KEY", "abcdefghij"), ("B_KEY", "fghijklmno"), ("C_KEY", "abcdefghijk")]);
    masked_by(&all, "<abcdefghijklmno> <abcdefghijk> abcdefghi", "<***> <***> abcdefghi");
}

#[test]
fn an_end_of_a_value_at_the_beginning_of_a_tail_is_masked() {
    let all = secrets(&[("A_KEY", "0123456789abcdef")]);
    assert_eq!(all.mask_tail("6789abcdef and more"), "*** and more");
    assert_eq!(all.mask_tail("89abcdef"), "***");
    assert_eq!(all.mask_tail("6789abcdXX"), "6789abcdXX");
}

#[test]
fn known_tokens_are_masked() {
    for token in [
        "sk-ant-api03-AbCdEfGh-1234_5678",
        "sk-proj-abcdefghijklmnop",
        "sk-Ab12Ab12Ab12Ab12Ab12",
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "github_pat_11ABCDEFG0123456789_abcdefghijklmnop",
        "glpat-abcdefghijklmnop1234",
        "xoxb-1234567890-abcdefghijkl",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "npm_abcdefghijklmnopqrstuvwxyz0123456789",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "hvs.CAESIJabcdefghijklmnop",
    ] {
        for (before, after) in
            [("", ""), ("use ", "."), ("\"", "\""), ("x=", "&y"), ("line\\n", "\\n"), ("%3D", " ")]
        {
            masked(&format!("{before}{token}{after}"), &format!("{before}{MASK}{after}"));
        }
    }
}

#[test]
fn credentials_in_headers_urls_and_assignments_are_masked() {
    masked("> Authorization: Bearer abc.def-ghi", "> Authorization: Bearer ***");
    masked("authorization: Basic dTpw", "authorization: Basic ***");
    masked(r#"{"Authorization": "token abcdef"}"#, r#"{"Authorization": "token ***"}"#);
    masked(
        r#"headers: {\"authorization\":\"Bearer abcdef\"}"#,
        r#"headers: {\"authorization\":\"Bearer ***\"}"#,
    );
    masked("x-api-key: 1234567890abcdef", "x-api-key: ***");
    masked("Cookie: a=b; c=d\nHost: x", "Cookie: ***\nHost: x");
    masked("sent Bearer abcdefgh12345", "sent Bearer ***");
    masked("https://me:pw@host/x", "https://me:***@host/x");
    masked("https://0123456789abcdef0123@github.com/x", "https://***@github.com/x");
    masked("--password=hunter22 --user=me", "--password=*** --user=me");
    masked("?access_token=abcdefgh1&x=1", "?access_token=***&x=1");
    masked(r#"{"client_secret": "abcdefgh", "x": 1}"#, r#"{"client_secret": "***", "x": 1}"#);
    masked("{'api_key': 'abcdefgh'}", "{'api_key': '***'}");
}

#[test]
fn a_private_key_is_masked_complete_or_cut() {
    let key = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow+/=\nabcd\n-----END RSA PRIVATE KEY-----";
    masked(&format!("a {key}\nb"), "a ***-----\nb");
    masked("x\n-----BEGIN PRIVATE KEY-----\nMIIE\nabcd\n", "x\n***");
    masked("MIIE\nabcd\n-----END PRIVATE KEY-----\nx", "***-----\nx");
    masked(r"k: -----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n!", r"k: ***-----\n!");
    kept("-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----");
}

#[test]
fn ordinary_words_are_not_masked() {
    for text in [
        "SyntaxError: Unexpected token: identifier",
        "unexpected token=IDENTIFIER",
        "Basic authentication failed, Bearer authentication required",
        "the secret is missing; the token: not found; password: required",
        "task-risk-based-approach-for-everything",
        "key=value primary_key=customer_identifier",
        "test sk-learn-style-names ok",
        "error[E0308]: mismatched types: keyword expected",
        "postgres://user@host/db and ssh://git@github.com/x",
        "authorization: required",
        "{\"input_tokens\":5000000000}",
        "https://example.com:8080/path@1.2.3",
        "<COMPLETION_GATE>\nready: true\n</COMPLETION_GATE>",
    ] {
        kept(text);
    }
}

#[test]
fn an_error_is_the_same_with_another_token() {
    let error = |token: &str| {
        let output =
            OutputSummary { stderr: format!("401: {token} was refused\n"), ..OutputSummary::default() };
        let output = secrets(&[("X_TOKEN", token)]).output(output);
        Error::new(output.error_line().expect("a line"))
    };
    assert_eq!(error("correct-horse"), error("battery-staple-9"));
    assert_eq!(error("correct-horse").summary, "401: *** was refused");
}

#[test]
fn text_that_consists_of_beginnings_of_tokens_is_masked_in_linear_time() {
    let all = secrets(&[("A_KEY", "aaaaaaaab"), ("B_KEY", "sk-sk-sk-x")]);
    for piece in [
        "sk-",
        "eyJ",
        "eyJ.",
        "authorization:",
        "cookie:",
        "basic ",
        "secret=",
        "token=\"",
        "://",
        "x://a:b@",
        "\"\"=",
        "PRIVATE KEY",
        "-----BEGIN PRIVATE KEY",
        "-----END PRIVATE KEY",
        "-----BEGIN PRIVATE KEY-----",
        "aaaaaaaa",
        "AKIA",
        "\\n",
    ] {
        // Takes half a second if it is linear, half a minute if it is not.
        let begun = Instant::now();
        let _ = all.mask_tail(&piece.repeat((1 << 16) / piece.len()));
        assert!(begun.elapsed().as_secs() < 20, "{piece} took {:?}", begun.elapsed());
    }
}

/// A report with `text` in every place.
fn everywhere(text: &str) -> Report {
    let gate = CompletionGate {
        ready: false,
        reason: Some(text.to_owned()),
        progress: Some(text.to_owned()),
        blockers: vec![text.to_owned(); 2],
    };
    let verify = Verified {
        passed: false,
        exit_code: Some(1),
        timed_out: false,
        last_lines: vec![text.to_owned(); 3],
    };
    Report {
        started_in: Some(text.to_owned()),
        files: vec![text.to_owned(), format!("folder/{text}.txt")],
        gate: Some(gate),
        verify: Some(verify),
        error: Some(Error::new(text)),
        usage: Some(Usage { model: Some(text.to_owned()), ..Usage::default() }),
        ..Report::of(End::Exited)
    }
}

proptest! {
    #[test]
    fn no_secret_is_in_an_encoded_report_wherever_it_was(
        secret in "[a-z\"\\\\ö/+ ]{3}[A-Za-z0-9\"\\\\/+-]{8,40}",
        before in "\\PC{0,220}",
        after in "\\PC{0,220}",
        limit in 550_usize..MAX_BYTES,
    ) {
        let secret = secret.trim();
        let all = secrets(&[("THE_TOKEN", secret)]);
        let mut report = everywhere(&all.mask(&format!("{before}{secret}{after}")));
        // What a parser assembled after the text was masked.
        report.gate.iter_mut().for_each(|gate| gate.reason = Some(format!("{before}{secret}{after}")));
        report.files.push(format!("{before}{secret}"));
        all.report(&mut report);
        let json = report.encode(limit, None).expect("fits");
        prop_assume!(!before.contains(secret) && !MASK.contains(secret));
        // Nor a part of it that a cut would have left.
        let parts = (4..=secret.len()).filter_map(|length| secret.get(..length)).filter(|part| !before.contains(part) && !after.contains(part) && part.len() > 7);
        let decoded = format!("{:?}{json}", Report::decode(&json));
        for part in parts {
            prop_assert!(!decoded.contains(part), "{part}: {json}");
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "(\\PC{0,20}|Authorization: |Bearer |token=|\"key\": \"|://|@|-----BEGIN PRIVATE KEY|-----END|sk-ant-|eyJ|\\n){0,12}") {
        let all = secrets(&[("A_KEY", "abcdefgh")]);
        let _ = (all.mask(&text), all.mask_tail(&text));
    }
}
