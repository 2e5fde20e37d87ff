//! `productpage`: the page that people see, and a small JSON API beside it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Form, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{forward, page};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where facts about a book come from.
    #[arg(long, default_value = "http://details:9080")]
    details: String,
    /// Where reviews come from.
    #[arg(long, default_value = "http://reviews:9080")]
    reviews: String,
    /// Where ratings come from, for the JSON API.
    #[arg(long, default_value = "http://ratings:9080")]
    ratings: String,
    /// How long to wait for one answer, in seconds; reviews are asked for twice.
    #[arg(long, default_value_t = 3.0)]
    timeout: f64,
}

struct Shop {
    options: Options,
    client: reqwest::Client,
}

pub(crate) fn router(options: Options) -> anyhow::Result<Router> {
    let client = forward::client(Duration::from_secs_f64(options.timeout))?;
    Ok(Router::new()
        .route("/", get(|| async { Redirect::temporary("/productpage") }))
        .route("/productpage", get(front))
        .route("/login", post(login))
        .route("/logout", get(logout))
        .route("/static/style.css", get(style))
        .route("/api/v1/products", get(|| async { Json(json!([product()])) }))
        .route("/api/v1/products/{book}", get(api_details))
        .route("/api/v1/products/{book}/reviews", get(api_reviews))
        .route("/api/v1/products/{book}/ratings", get(api_ratings))
        .with_state(Arc::new(Shop { options, client })))
}

fn product() -> Value {
    json!({
        "id": 0,
        "title": "The Comedy of Errors",
        "description": "Two pairs of twins, separated at birth, meet by accident in one town. Everyone is taken for \
                        someone else, and a day of confusion follows. Shakespeare's shortest play, and one of his \
                        most farcical.",
    })
}

async fn front(State(shop): State<Arc<Shop>>, headers: HeaderMap) -> Html<String> {
    let calls = shop.headers(&headers);
    let details_url = format!("{}/details/0", shop.options.details);
    let (details, reviews) = tokio::join!(shop.get(&details_url, &calls), shop.reviews("0", &calls));
    let user = session(&headers);
    Html(page::render(&page::Page {
        product: &product(),
        details: details.as_ref().ok(),
        reviews: reviews.as_ref().ok(),
        user: user.as_deref(),
    }))
}

#[derive(Deserialize)]
struct Login {
    username: String,
}

async fn login(Form(login): Form<Login>) -> Response {
    let name: String = login
        .username
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(*letter))
        .collect();
    back_with_cookie(&format!("user={name}; Path=/; HttpOnly; SameSite=Lax"))
}

async fn logout() -> Response {
    back_with_cookie("user=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax")
}

fn back_with_cookie(cookie: &str) -> Response {
    let mut response = Redirect::to("/productpage").into_response();
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css"), (header::CACHE_CONTROL, "max-age=3600")], page::STYLE)
}

async fn api_details(
    State(shop): State<Arc<Shop>>,
    Path(book): Path<String>,
    headers: HeaderMap,
) -> Response {
    let url = format!("{}/details/{book}", shop.options.details);
    answer(shop.get(&url, &shop.headers(&headers)).await, "product details are")
}

async fn api_reviews(
    State(shop): State<Arc<Shop>>,
    Path(book): Path<String>,
    headers: HeaderMap,
) -> Response {
    answer(shop.reviews(&book, &shop.headers(&headers)).await, "product reviews are")
}

async fn api_ratings(
    State(shop): State<Arc<Shop>>,
    Path(book): Path<String>,
    headers: HeaderMap,
) -> Response {
    let url = format!("{}/ratings/{book}", shop.options.ratings);
    answer(shop.get(&url, &shop.headers(&headers)).await, "product ratings are")
}

fn answer(result: Result<Value, reqwest::Error>, what: &str) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let status = error
                .status()
                .and_then(|status| StatusCode::from_u16(status.as_u16()).ok())
                .unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            (status, Json(json!({"error": format!("Sorry, {what} currently unavailable for this book.")})))
                .into_response()
        }
    }
}

impl Shop {
    /// What goes with the calls made for `request`: the headers that are always passed on, and the signed-in user.
    fn headers(&self, request: &HeaderMap) -> HeaderMap {
        let mut headers = forward::passed_on(request);
        if let Some(user) = session(request).and_then(|user| HeaderValue::from_str(&user).ok()) {
            headers.insert("end-user", user);
        }
        headers
    }

    async fn get(&self, url: &str, headers: &HeaderMap) -> Result<Value, reqwest::Error> {
        self.client.get(url).headers(headers.clone()).send().await?.error_for_status()?.json().await
    }

    /// Reviews matter to the page, so a failed attempt is repeated once.
    async fn reviews(&self, book: &str, headers: &HeaderMap) -> Result<Value, reqwest::Error> {
        let url = format!("{}/reviews/{book}", self.options.reviews);
        match self.get(&url, headers).await {
            Ok(reviews) => Ok(reviews),
            Err(_) => self.get(&url, headers).await,
        }
    }
}

/// The signed-in user, from the cookie that [`login`] set.
fn session(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix("user=").map(str::to_owned))
        .filter(|user| !user.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_cookie_is_found_among_others() {
        let check = |cookie: &str, expect: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, cookie.parse().unwrap());
            assert_eq!(session(&headers).as_deref(), expect, "{cookie}");
        };
        check("user=jason", Some("jason"));
        check("theme=dark; user=jason; x=y", Some("jason"));
        check("theme=dark", None);
        check("user=", None);
    }
}
