//! Cuts and cleans text from other sources, so that it can be shown next to our own.

/// At most `chars` characters of a text, cleaned. If the text was longer, the last of them is an ellipsis.
pub fn cut(text: &str, chars: usize) -> String {
    if clean(text).nth(chars).is_none() {
        return clean(text).collect();
    }
    clean(text).take(chars.saturating_sub(1)).chain(['…']).collect()
}

/// At most `bytes` bytes of a text as the API server stores it in JSON, whole characters, cleaned. If the text was
/// longer, the last character is an ellipsis.
pub fn cut_bytes(text: &str, bytes: usize) -> String {
    if clean(text).map(json_bytes).sum::<usize>() <= bytes {
        return clean(text).collect();
    }
    let room = bytes.saturating_sub('…'.len_utf8());
    let mut used = 0;
    let fits = |c: &char| {
        used = usize::saturating_add(used, json_bytes(*c));
        used <= room
    };
    clean(text).take_while(fits).chain(['…']).collect()
}

/// At most `chars` characters of an object's name, so that what is left ends with a letter or a digit.
pub fn cut_name(name: &str, chars: usize) -> &str {
    let cut = name.get(..name.len().min(chars)).unwrap_or(name);
    cut.trim_end_matches(|c: char| !c.is_ascii_alphanumeric())
}

/// The size of a character in JSON that Go writes: it escapes what could end a string or an HTML script.
fn json_bytes(c: char) -> usize {
    match c {
        '"' | '\\' => 2,
        '<' | '>' | '&' => 6,
        c => c.len_utf8(),
    }
}

/// A text that a terminal or a web page shows as it is. Control characters and line separators become blanks.
/// Characters that have no glyph, or that change the direction of the text after them, are removed.
fn clean(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter_map(|c| match c {
        c if c.is_control() => Some(' '),
        '\u{2028}' | '\u{2029}' => Some(' '),
        c if is_invisible(c) => None,
        c => Some(c),
    })
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
    fn invisible_characters_are_removed_and_everything_else_stays() {
        let clean = |text: &str| super::clean(text).collect::<String>();
        assert_eq!(clean("a\u{202e}b\u{200b}c\u{2066}d\u{feff}e\u{e0041}f\u{ad}g"), "abcdefg");
        assert_eq!(clean("a\nb\u{1b}c\u{2028}d"), "a b c d");
        assert_eq!(clean("größer 日本語 עברית 🙂"), "größer 日本語 עברית 🙂");
    }

    #[test]
    fn cutting_counts_characters_and_shows_that_it_cut() {
        assert_eq!(cut("größer", 6), "größer");
        assert_eq!(cut("größer", 4), "grö…");
    }

    #[test]
    fn cutting_by_size_counts_the_bytes_of_json_as_go_writes_it() {
        assert_eq!(cut_bytes("a\u{1b}[31m\nb", 100), "a [31m b");
        assert_eq!(cut_bytes("größer", 6), "gr…");
        assert_eq!(cut_bytes("größer", 8), "größer");
        assert_eq!(cut_bytes("𝕏𝕏", 7), "𝕏…");
        assert_eq!(cut_bytes("\"\"\"\"", 7), "\"\"…", "a quote has two bytes");
        assert_eq!(cut_bytes("a<b", 8), "a<b");
        assert_eq!(cut_bytes("a<b", 7), "a…", "and this has six");
        assert_eq!(
            cut_bytes("a\u{85}b", 3),
            "a b",
            "a control character counts as the blank that replaces it"
        );
    }

    #[test]
    fn a_cut_name_ends_with_a_letter_or_a_digit() {
        assert_eq!(cut_name("fix-the-parser", 8), "fix-the");
        assert_eq!(cut_name("fix", 8), "fix");
    }
}
