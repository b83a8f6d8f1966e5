//! Recognises variables and fields that contain credentials by their names.

/// Words that count anywhere in a name.
const WORDS: [&str; 8] =
    ["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "PASSCODE", "CREDENTIAL"];
/// Words that count only as a separate part of a name: AUTH, but not AUTHOR.
const PARTS: [&str; 17] = [
    "AUTH",
    "OAUTH",
    "OAUTH2",
    "XAUTH",
    "BASICAUTH",
    "AUTHORIZATION",
    "BEARER",
    "COOKIE",
    "COOKIES",
    "CRED",
    "CREDS",
    "DSN",
    "JWT",
    "PASS",
    "PAT",
    "PWD",
    "SAS",
];
/// Variables in which a shell keeps its folder.
const FOLDERS: [&str; 2] = ["PWD", "OLDPWD"];

/// Whether a variable of this name contains a credential.
pub(super) fn indicates_a_credential(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let mut parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    let part = |part: &str| PARTS.contains(&part) || (part.len() > 4 && part.ends_with("PASS"));
    !FOLDERS.contains(&name.as_str()) && (WORDS.iter().any(|word| name.contains(word)) || parts.any(part))
}

/// How certain it is that a credential follows a name in running text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The value is a credential.
    Certain,
    /// The value may also be a word, because parsers print "token" too.
    Likely,
}

/// Whether a field of this name, as in `name=value`, contains a credential. A bare `key` does not indicate one.
pub(super) fn field(name: &str) -> Option<Field> {
    let name: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
    let ends = |words: &[&str]| words.iter().any(|word| name.ends_with(word));
    if ends(&["PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "APIKEY", "ACCESSKEY", "PRIVATEKEY", "SECRETKEY"])
        || ends(&["ACCOUNTKEY", "AUTHKEY", "SHAREDACCESSKEY", "AUTHTOKEN", "ACCESSTOKEN", "REFRESHTOKEN"])
    {
        Some(Field::Certain)
    } else if ends(&["TOKEN", "CREDENTIAL", "CREDENTIALS", "AUTH", "COOKIE", "SIGNATURE", "SIG"]) {
        Some(Field::Likely)
    } else {
        None
    }
}
