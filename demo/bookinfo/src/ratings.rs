//! `ratings`: how many stars readers give a book.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

pub(crate) fn router() -> Router {
    Router::new().route("/ratings/{book}", get(ratings))
}

async fn ratings(Path(book): Path<String>) -> Response {
    match book.parse::<u32>() {
        Ok(book) => Json(json!({"id": book, "ratings": {"Reviewer1": 5, "Reviewer2": 4}})).into_response(),
        Err(_) => (StatusCode::BAD_REQUEST, Json(json!({"error": "please provide numeric product ID"})))
            .into_response(),
    }
}
