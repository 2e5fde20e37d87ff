//! What Bookinfo's answers tell of the mesh between its services.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use crate::http_client::HttpClient;

/// The reviews of the one book.
pub const REVIEWS: &str = "/api/v1/products/0/reviews";
/// Its ratings.
pub const RATINGS: &str = "/api/v1/products/0/ratings";
/// The page itself.
pub const PAGE: &str = "/productpage";

/// The version of `reviews` that answers `user`: `v1`, `v2` or `v3`, from the name of its Pod.
pub async fn reviews_version(client: &HttpClient, user: Option<&str>) -> anyhow::Result<String> {
    let answer = client.get(REVIEWS, user).await?;
    ensure!(answer.status() == 200, "{REVIEWS} answered {}: {}", answer.status(), answer.text());
    let body = answer.json()?;
    let pod = body["podname"].as_str().context("the answer names no Pod")?;
    let version = pod.strip_prefix("reviews-").and_then(|rest| rest.split('-').next());
    Ok(version.with_context(|| format!("{pod} is no Pod of reviews"))?.to_owned())
}

/// How often each version answers `count` requests of a user without a name.
pub async fn shares(client: &HttpClient, count: usize) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        *shares.entry(reviews_version(client, None).await?).or_insert(0) += 1;
    }
    Ok(shares)
}

/// Checks shares against weights in percent. A version's count is a sum of independent draws; it must lie within 4.5
/// standard deviations of its expectation (a fair mesh fails this about once in 150,000 times), and a version without
/// a weight must not answer at all.
pub fn assert_shares(name: &str, shares: &BTreeMap<String, usize>, weights: &[(&str, u32)]) {
    let count: usize = shares.values().sum();
    println!("{name}: {shares:?} of {count}");
    for version in shares.keys() {
        assert!(weights.iter().any(|(known, _)| known == version), "{name}: {version} must not answer");
    }
    for (version, weight) in weights {
        let probability = f64::from(*weight) / 100.0;
        let expected = probability * count as f64;
        let bound = 4.5 * (expected * (1.0 - probability)).sqrt();
        let seen = shares.get(*version).copied().unwrap_or(0) as f64;
        assert!(
            (seen - expected).abs() <= bound,
            "{name}: {version} answered {seen} of {count}; expected {expected:.0} ± {bound:.0}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares_of(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
        counts.iter().map(|(version, count)| ((*version).to_owned(), *count)).collect()
    }

    #[test]
    fn shares_near_their_weights_pass() {
        assert_shares("even", &shares_of(&[("v1", 210), ("v3", 190)]), &[("v1", 50), ("v3", 50)]);
        assert_shares("all", &shares_of(&[("v1", 100)]), &[("v1", 100)]);
    }

    #[test]
    #[should_panic(expected = "v1 answered 300 of 400")]
    fn shares_far_from_their_weights_fail() {
        assert_shares("even", &shares_of(&[("v1", 300), ("v3", 100)]), &[("v1", 50), ("v3", 50)]);
    }

    #[test]
    #[should_panic(expected = "v2 must not answer")]
    fn a_version_without_a_weight_fails() {
        assert_shares("all", &shares_of(&[("v1", 399), ("v2", 1)]), &[("v1", 100)]);
    }
}
