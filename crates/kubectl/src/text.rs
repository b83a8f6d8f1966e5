//! Text for a terminal: safe, coloured, aligned, wrapped.

use std::borrow::Cow;

use agentloop_contract::text::cut;
use agentloop_core::api::Phase;
use jiff::{SignedDuration, Timestamp};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// One line of text from an object or an agent: without escape sequences, control characters and characters that hide
/// or turn other text.
pub fn line(text: &str) -> String {
    cut(&without_escapes(text), usize::MAX)
}

/// Several lines, each as by [`line()`]. A carriage return overwrites its line, as on a terminal.
pub fn lines(text: &str) -> Vec<String> {
    let shown = |raw: &str| {
        let raw = raw.trim_end_matches('\r');
        line(&raw.rsplit('\r').next().unwrap_or(raw).replace('\t', "    ")).trim_end().to_owned()
    };
    text.lines().map(shown).collect()
}

/// Removes escape sequences as a whole, so that their parameters do not remain as text.
fn without_escapes(text: &str) -> Cow<'_, str> {
    if !text.contains(['\u{1b}', '\u{9b}', '\u{9d}', '\u{90}']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let kind = match c {
            '\u{1b}' => chars.next(),
            '\u{9b}' => Some('['),
            '\u{9d}' => Some(']'),
            '\u{90}' => Some('P'),
            c => {
                out.push(c);
                continue;
            }
        };
        match kind {
            // CSI: parameters, then one final character.
            Some('[') => {
                while chars.next_if(|c| matches!(c, '\u{20}'..='\u{3f}')).is_some() {}
                let _ = chars.next_if(|c| matches!(c, '\u{40}'..='\u{7e}'));
            }
            // Strings, until BEL or ST, but never beyond the line.
            Some(']' | 'P' | 'X' | '^' | '_') => {
                while let Some(c) = chars.next_if(|c| *c != '\n') {
                    if matches!(c, '\u{7}' | '\u{9c}') || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some())
                    {
                        break;
                    }
                }
            }
            // A line feed must remain, whatever is before it.
            Some('\n') => out.push('\n'),
            // A character set: one more character.
            Some('(' | ')' | '*' | '+' | '#' | '%') => drop(chars.next_if(|c| *c != '\n')),
            _ => {}
        }
    }
    Cow::Owned(out)
}

/// Columns that a text takes on a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// At most `columns` columns of a text that is already safe. If it was wider, it ends with an ellipsis.
pub fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let mut used = 0_usize;
    let fits = |c: &char| {
        used = used.saturating_add(c.width().unwrap_or(0));
        used <= room
    };
    let kept: String = text.chars().take_while(fits).collect();
    if columns == 0 { String::new() } else { format!("{kept}…") }
}

/// A text in lines of at most `columns` columns, broken between words. Longer words are on lines of their own, unbroken,
/// so that they can be copied.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let needed = width(&current).saturating_add(1).saturating_add(width(word));
        if !current.is_empty() && needed > columns {
            lines.push(std::mem::take(&mut current));
        }
        if !current.is_empty() {
            current.push(' ');
        }
        current.push_str(word);
    }
    if !current.is_empty() {
        lines.push(current);
    }
    lines
}

/// A colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Good.
    Green,
    /// Needs attention.
    Yellow,
    /// Bad.
    Red,
    /// In progress.
    Cyan,
    /// Less important.
    Dim,
    /// A heading.
    Bold,
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Use colours.
    pub colour: bool,
}

impl Style {
    /// The text in this colour.
    pub fn paint(self, colour: Option<Colour>, text: &str) -> String {
        let code = match colour {
            Some(colour) if self.colour && !text.is_empty() => match colour {
                Colour::Green => "32",
                Colour::Yellow => "33",
                Colour::Red => "31",
                Colour::Cyan => "36",
                Colour::Dim => "2",
                Colour::Bold => "1",
            },
            _ => return text.to_owned(),
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// The colour of a phase.
pub fn phase_colour(phase: Phase) -> Option<Colour> {
    match phase {
        Phase::Succeeded => Some(Colour::Green),
        Phase::Running => Some(Colour::Cyan),
        Phase::Waiting | Phase::IterationLimitReached => Some(Colour::Yellow),
        Phase::CircuitOpen | Phase::Failed => Some(Colour::Red),
        Phase::Suspended | Phase::Pending => Some(Colour::Dim),
        Phase::Other(_) => None,
    }
}

/// A cell of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The text. It must be safe.
    pub text: String,
    /// Its colour.
    pub colour: Option<Colour>,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, colour: None }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

/// Blanks between two columns, as in kubectl's tables, and how narrow a column may then become.
const ROOMY: (usize, usize) = (3, 8);
/// The same for a terminal that is too narrow for that.
const TIGHT: (usize, usize) = (1, 4);

/// A table like kubectl's. With a `width`, its widest columns are cut until it fits.
pub fn table(
    header: Option<&[&str]>,
    rows: &[Vec<Cell>],
    columns: Option<usize>,
    style: Style,
) -> Vec<String> {
    let header: Option<Vec<Cell>> = header.map(|names| names.iter().map(|name| Cell::from(*name)).collect());
    let all: Vec<&Vec<Cell>> = header.iter().chain(rows).collect();
    let count = all.iter().map(|row| row.len()).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..count)
        .map(|at| all.iter().filter_map(|row| row.get(at)).map(|cell| width(&cell.text)).max().unwrap_or(0))
        .collect();
    let gap = columns.map_or(ROOMY.0, |columns| narrow(&mut widths, columns));
    all.into_iter().map(|row| format_row(row, &widths, gap, style)).collect()
}

/// Makes the widest columns narrower until all fit. Returns the blanks between them.
fn narrow(widths: &mut [usize], columns: usize) -> usize {
    for (gap, narrowest) in [ROOMY, TIGHT] {
        let gaps = widths.len().saturating_sub(1).saturating_mul(gap);
        let full = |widths: &[usize]| widths.iter().sum::<usize>().saturating_add(gaps) > columns;
        while full(widths) {
            match widths.iter_mut().max() {
                Some(widest) if *widest > narrowest => *widest = widest.saturating_sub(1),
                _ => break,
            }
        }
        if !full(widths) {
            return gap;
        }
    }
    TIGHT.0
}

fn format_row(row: &[Cell], widths: &[usize], gap: usize, style: Style) -> String {
    let mut line = String::new();
    // Blanks are written before the next text, so that no line ends with blanks.
    let mut blanks = 0_usize;
    for (cell, room) in row.iter().zip(widths) {
        let shown = fit(&cell.text, *room);
        if !shown.is_empty() {
            line.extend(std::iter::repeat_n(' ', blanks));
            blanks = 0;
        }
        blanks = blanks.saturating_add(room.saturating_sub(width(&shown))).saturating_add(gap);
        line.push_str(&style.paint(cell.colour, &shown));
    }
    line
}

/// A duration as kubectl writes ages: `42s`, `7m30s`, `3h12m`, `4d2h`, `12d`.
pub fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, 'd', hours % 24, 'h'),
        () if days < 730 => format!("{days}d"),
        () => two(days / 365, 'y', days % 365, 'd'),
    }
}

/// The time since `then`.
pub fn age(then: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(then))
}

/// A cost for people: cents, and more digits for less.
pub fn dollars(cost: &str) -> String {
    match cost.parse::<f64>() {
        Ok(cost) if cost.is_finite() && cost >= 0.095 => format!("${cost:.2}"),
        Ok(cost) if cost.is_finite() && cost > 0.0 => format!("${cost:.4}"),
        Ok(0.0) => "$0".to_owned(),
        _ => line(cost),
    }
}

/// A number of tokens for people: `950`, `12.3k`, `4.5M`.
pub fn tokens(count: i64) -> String {
    let scaled = |unit: i64, suffix: &str| {
        let tenths = count / (unit / 10);
        format!("{}.{}{suffix}", tenths / 10, tenths % 10)
    };
    match count {
        ..1_000 => count.to_string(),
        1_000..1_000_000 => scaled(1_000, "k"),
        _ => scaled(1_000_000, "M"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_an_agent_emits_no_escapes() {
        for (text, expected) in [
            ("plain", "plain"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{9b}2Jx\u{90}q\u{9c}y", "xy"),
            ("\u{1b}(Bx\u{1b}cy\u{1b}", "xy"),
            ("a\u{7}b\u{8}c", "a b c"),
            ("abc\u{202e}def", "abcdef"),
            ("\u{1b}[38;5;1", ""),
        ] {
            assert_eq!(line(text), expected, "{text:?}");
        }
        assert_eq!(lines("\u{1b}]0;never ended\nnext\r\n10%\r100%\n"), ["", "next", "100%"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_controls_the_terminal(text in "(\\PC|[\u{0}-\u{9f}]|\u{1b}\\[|\u{202e}){0,40}") {
            let safe = |text: &str| !text.contains(|c: char| c.is_control() || c == '\u{202e}');
            proptest::prop_assert!(safe(&line(&text)));
            proptest::prop_assert!(lines(&text).iter().all(|line| safe(line)));
        }

        #[test]
        fn text_that_is_cut_fits(text in "\\PC{0,40}", columns in 0..60_usize) {
            proptest::prop_assert!(width(&fit(&text, columns)) <= columns);
        }
    }

    #[test]
    fn a_table_is_aligned_and_its_lines_do_not_end_with_blanks() {
        let rows =
            vec![vec![Cell::from("a"), "x".into()], vec![Cell::from("longer"), "".into()], vec!["b".into()]];
        assert_eq!(
            table(Some(&["NAME", "WHY"]), &rows, None, Style::default()),
            ["NAME     WHY", "a        x", "longer", "b"]
        );
    }

    #[test]
    fn a_table_fits_any_terminal_from_40_columns() {
        let row = vec![Cell::from("a-very-long-name-of-a-task-for-this-table"); 6];
        for columns in 40..=200 {
            for line in table(None, std::slice::from_ref(&row), Some(columns), Style::default()) {
                assert!(width(&line) <= columns, "{columns}: {line}");
            }
        }
        assert_eq!(width(&table(None, &[row], None, Style::default())[0]), 6 * 41 + 5 * 3);
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(fit("日本語", 6), "日本語");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(fit("x", 0), "");
    }

    #[test]
    fn colours_are_used_only_if_they_are_on() {
        let painted = |colour| Style { colour }.paint(Some(Colour::Red), "x");
        assert_eq!((painted(false), painted(true)), ("x".to_owned(), "\u{1b}[31mx\u{1b}[0m".to_owned()));
    }

    #[test]
    fn durations_are_written_as_kubectl_writes_them() {
        let of = |seconds| duration(SignedDuration::from_secs(seconds));
        assert_eq!([-5, 119, 120, 450, 600].map(of), ["0s", "119s", "2m", "7m30s", "10m"]);
        assert_eq!([10_800, 11_520, 28_800, 172_800, 180_000].map(of), ["3h", "3h12m", "8h", "2d", "2d2h"]);
        assert_eq!([86_400 * 30, 86_400 * 800].map(of), ["30d", "2y70d"]);
    }

    #[test]
    fn costs_and_tokens_are_rounded_for_people() {
        assert_eq!(["12.345", "0.0412", "0", "free"].map(dollars), ["$12.35", "$0.0412", "$0", "free"]);
        assert_eq!([950, 12_345, 4_567_890].map(tokens), ["950", "12.3k", "4.5M"]);
    }

    #[test]
    fn text_is_broken_between_words_only() {
        assert_eq!(
            wrap("one two three a-very-long-word x", 9),
            ["one two", "three", "a-very-long-word", "x"]
        );
        assert_eq!(wrap("", 9), Vec::<String>::new());
    }
}
