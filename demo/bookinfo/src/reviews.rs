//! `reviews`: what readers say about a book.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::forward;

const TEXTS: [(&str, &str); 2] = [
    ("Reviewer1", "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!"),
    (
        "Reviewer2",
        "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare.",
    ),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// v1 shows no stars, v2 black ones, v3 red ones.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Where ratings come from.
    #[arg(long, default_value = "http://ratings:9080")]
    ratings: String,
    /// How long to wait for ratings, in seconds.
    #[arg(long, default_value_t = 10.0)]
    ratings_timeout: f64,
}

struct Reviews {
    pod: String,
    version: String,
    color: Option<&'static str>,
    ratings: String,
    client: reqwest::Client,
}

#[derive(Deserialize)]
struct Ratings {
    ratings: BTreeMap<String, u8>,
}

pub(crate) fn router(options: Options) -> anyhow::Result<Router> {
    let color = match options.version.as_str() {
        "v1" => None,
        "v3" => Some("red"),
        _ => Some("black"),
    };
    let reviews = Reviews {
        pod: std::env::var("HOSTNAME").unwrap_or_else(|_| format!("reviews-{}", options.version)),
        version: options.version,
        color,
        ratings: options.ratings,
        client: forward::client(Duration::from_secs_f64(options.ratings_timeout))?,
    };
    Ok(Router::new().route("/reviews/{book}", get(review)).with_state(Arc::new(reviews)))
}

async fn review(
    State(service): State<Arc<Reviews>>,
    Path(book): Path<String>,
    headers: HeaderMap,
) -> Json<Value> {
    let ratings = match service.color {
        Some(_) => Some(service.ratings(&book, &headers).await),
        None => None,
    };
    let reviews: Vec<Value> = TEXTS
        .iter()
        .map(|(reviewer, text)| {
            let mut review = json!({"reviewer": reviewer, "text": text});
            if let Some(ratings) = &ratings {
                review["rating"] = match ratings.as_ref().map(|ratings| ratings.get(*reviewer)) {
                    Ok(Some(stars)) => json!({"stars": stars, "color": service.color}),
                    Ok(None) => json!({"error": "No rating for this reviewer"}),
                    Err(_) => json!({"error": "Ratings service is currently unavailable"}),
                };
            }
            review
        })
        .collect();
    Json(json!({"id": book, "podname": service.pod, "version": service.version, "reviews": reviews}))
}

impl Reviews {
    async fn ratings(&self, book: &str, request: &HeaderMap) -> Result<BTreeMap<String, u8>, reqwest::Error> {
        let url = format!("{}/ratings/{book}", self.ratings);
        let answer =
            self.client.get(url).headers(forward::passed_on(request)).send().await?.error_for_status()?;
        Ok(answer.json::<Ratings>().await?.ratings)
    }
}
