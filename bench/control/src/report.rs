//! Tables in Markdown, on the screen and in a file.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// The text so far.
#[derive(Debug, Default)]
pub struct Report {
    text: String,
}

impl Report {
    /// A line of text.
    pub fn line(&mut self, line: &str) {
        println!("{line}");
        // Writing into a string does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    /// The head of a table of figures.
    pub fn table(&mut self, title: &str) {
        self.line(&format!("\n## {title}\n"));
        self.line("| figure | measured | target |");
        self.line("|---|---|---|");
    }

    /// A row of such a table.
    pub fn row(&mut self, figure: &str, measured: &str, target: &str) {
        self.line(&format!("| {figure} | {measured} | {target} |"));
    }

    /// Adds everything to what is written there.
    pub fn append(&self, path: &Path) -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        std::io::Write::write_all(&mut file, self.text.as_bytes())
    }

    /// Writes everything.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, &self.text)
    }
}

/// The value below which this share of all is; they are sorted on the way.
pub fn percentile(values: &mut [Duration], share: f64) -> Duration {
    values.sort();
    let last = values.len().saturating_sub(1);
    let index = (share * last as f64).round() as usize;
    values.get(index.min(last)).copied().unwrap_or_default()
}

/// `12.3 ms`
pub fn milliseconds(value: Duration) -> String {
    format!("{:.1} ms", value.as_secs_f64() * 1e3)
}

/// The exponent of the power law that fits best: the slope in logarithms.
pub fn exponent(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> =
        points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0).map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| logs.iter().map(pick).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = logs.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let variance: f64 = logs.iter().map(|point| (point.0 - x).powi(2)).sum();
    if variance == 0.0 { 0.0 } else { covariance / variance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_and_percentiles() {
        let power = |exponent: f64| [1.0, 2.0, 5.0, 10.0].map(|x: f64| (x, 3.0 * x.powf(exponent)));
        for expected in [0.0, 0.2, 1.0, -0.5] {
            assert!((exponent(&power(expected)) - expected).abs() < 1e-9, "{expected}");
        }
        let mut values: Vec<Duration> = (0..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut values, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&mut [], 0.5), Duration::ZERO);
    }
}
