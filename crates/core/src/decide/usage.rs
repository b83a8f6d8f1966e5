//! The cost of iterations, added up exactly.

use agentloop_contract::report;

use crate::api::Usage;

/// Decimal places of a cost in dollars.
const PLACES: usize = 9;

/// The usage in a report, without implausible values.
pub(super) fn from_report(usage: &report::Usage) -> Usage {
    let tokens = |count: Option<i64>| count.filter(|count| *count >= 0);
    Usage {
        input_tokens: tokens(usage.input_tokens),
        cached_input_tokens: tokens(usage.cached_input_tokens),
        output_tokens: tokens(usage.output_tokens),
        cost_usd: usage.cost_usd.as_deref().and_then(billionths).map(format),
    }
}

/// The sum of both.
pub(super) fn add(sum: Option<Usage>, more: Option<&Usage>) -> Option<Usage> {
    let (sum, more) = match (sum, more) {
        (None, more) => return more.cloned(),
        (sum, None) => return sum,
        (Some(sum), Some(more)) => (sum, more),
    };
    let tokens = |a: Option<i64>, b: Option<i64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    };
    let cost = |usage: &Usage| usage.cost_usd.as_deref().and_then(billionths);
    Some(Usage {
        input_tokens: tokens(sum.input_tokens, more.input_tokens),
        cached_input_tokens: tokens(sum.cached_input_tokens, more.cached_input_tokens),
        output_tokens: tokens(sum.output_tokens, more.output_tokens),
        cost_usd: match (cost(&sum), cost(more)) {
            (Some(a), Some(b)) => Some(format(a.saturating_add(b))),
            (a, b) => a.or(b).map(format),
        },
    })
}

/// A decimal number in billionths; `None` if the text is not a number, or negative.
fn billionths(text: &str) -> Option<u128> {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || whole.len() > 24 || !(fraction.is_empty() || digits(fraction)) {
        return None;
    }
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(PLACES).collect();
    format!("{whole}{fraction}").parse().ok()
}

fn format(billionths: u128) -> String {
    let digits = format!("{billionths:0>width$}", width = PLACES + 1);
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(PLACES));
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(text: &str) -> Usage {
        Usage { cost_usd: Some(text.to_owned()), ..Usage::default() }
    }

    #[test]
    fn costs_add_up_to_the_last_digit() {
        let sum = add(Some(cost("0.1")), Some(&cost("0.2"))).and_then(|u| u.cost_usd);
        assert_eq!(sum.as_deref(), Some("0.3"));
        let sum = add(Some(cost("9.999999999")), Some(&cost("0.000000001"))).and_then(|u| u.cost_usd);
        assert_eq!(sum.as_deref(), Some("10"));
    }

    #[test]
    fn the_largest_cost_keeps_its_digits() {
        let large = "123456789012345678901234.5";
        assert_eq!(add(Some(cost("0")), Some(&cost(large))).and_then(|u| u.cost_usd).as_deref(), Some(large));
    }

    #[test]
    fn a_text_that_is_not_an_amount_is_left_out() {
        for text in ["", "-1", "1e9", "NaN", ".5", "1.2.3", "1234567890123456789012345"] {
            let read =
                from_report(&report::Usage { cost_usd: Some(text.to_owned()), ..report::Usage::default() });
            assert_eq!(read.cost_usd, None, "{text}");
        }
    }

    #[test]
    fn an_iteration_without_usage_keeps_the_sum() {
        assert_eq!(add(Some(cost("1")), None), Some(cost("1")));
        assert_eq!(add(None, None), None);
    }
}
