//! Text of others, made fit to be shown beside our own.

/// A character as it may be shown: control characters and separators of lines become blanks; what has no
/// glyph of its own, or turns the direction of what follows, is left out. A terminal or a web page would
/// otherwise show other words than those that are there.
pub fn shown(c: char) -> Option<char> {
    match c {
        c if c.is_control() => Some(' '),
        '\u{2028}' | '\u{2029}' => Some(' '),
        c if is_invisible(c) => None,
        c => Some(c),
    }
}

/// Unicode's format characters (general category Cf), and letters and marks without a glyph.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_left_out_and_the_rest_stays() {
        let shown = |text: &str| text.chars().filter_map(shown).collect::<String>();
        assert_eq!(shown("a\u{202e}b\u{200b}c\u{2066}d\u{feff}e\u{e0041}f\u{ad}g"), "abcdefg");
        assert_eq!(shown("a\nb\u{1b}c\u{2028}d"), "a b c d");
        assert_eq!(shown("größer 日本語 עברית 🙂"), "größer 日本語 עברית 🙂");
    }
}
