//! Metrics in Prometheus' text format, as far as the benchmark reads them.

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// The metric's name.
    pub name: &'a str,
    labels: &'a str,
    /// Its value.
    pub value: f64,
}

impl<'a> Sample<'a> {
    /// The value of a label; empty if it has none. Values with escaped quotes do not occur in what is read here.
    pub fn label(&self, name: &str) -> &'a str {
        let mut rest = self.labels;
        while let Some((key, after)) = rest.split_once("=\"") {
            let Some((value, next)) = after.split_once('"') else { break };
            if key == name {
                return value;
            }
            rest = next.trim_start_matches(',');
        }
        ""
    }
}

/// The samples of one metric.
pub fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = Sample<'a>> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let value = value.split_whitespace().next()?.parse().ok()?;
        Some(Sample { name, labels, value })
    })
}

/// The sum of all samples of one metric.
pub fn sum(text: &str, name: &str) -> f64 {
    samples(text, name).map(|sample| sample.value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP requests_total x\n\
        requests_total{verb=\"GET\",resource=\"pods\",code=\"200\"} 3\n\
        requests_total{verb=\"PATCH\",resource=\"pods\",code=\"409\"} 4 1700000000\n\
        requests_total_other 9\n\
        puts 1.5e+03\n";

    #[test]
    fn samples_are_read_with_their_labels() {
        let all: Vec<_> = samples(TEXT, "requests_total").collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all.iter().map(|one| one.label("resource")).collect::<Vec<_>>(), ["pods", "pods"]);
        assert_eq!(all.iter().map(|one| one.label("code")).collect::<Vec<_>>(), ["200", "409"]);
        assert_eq!(all.first().map(|one| one.label("missing")), Some(""));
        assert!((sum(TEXT, "requests_total") - 7.0).abs() < f64::EPSILON);
        assert!((sum(TEXT, "puts") - 1500.0).abs() < f64::EPSILON);
    }
}
