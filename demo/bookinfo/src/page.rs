//! The page as HTML.

use std::fmt::Write;

use serde_json::Value;

/// What a page shows. `None` where the service that knows did not answer.
pub(crate) struct Page<'a> {
    pub(crate) product: &'a Value,
    pub(crate) details: Option<&'a Value>,
    pub(crate) reviews: Option<&'a Value>,
    pub(crate) user: Option<&'a str>,
}

pub(crate) const STYLE: &str = "\
:root{--ink:#1d2733;--soft:#5d6b7a;--line:#e3e8ee;--paper:#fff;--sea:#0f5c73;--ground:#f3f6f8}\
*{box-sizing:border-box}body{margin:0;font:16px/1.6 system-ui,sans-serif;color:var(--ink);background:var(--ground)}\
header{background:var(--sea);color:#fff;padding:1rem 2rem;display:flex;align-items:center;gap:1rem;flex-wrap:wrap}\
header b{font-size:1.2rem;letter-spacing:.02em;margin-right:auto}header form{display:flex;gap:.5rem}\
input,button{font:inherit;padding:.35rem .7rem;border-radius:.4rem;border:1px solid var(--line)}\
button{background:#fff;color:var(--sea);cursor:pointer}header a{color:#fff}\
main{max-width:64rem;margin:2rem auto;padding:0 1rem;display:grid;gap:1.5rem;grid-template-columns:1fr 1fr}\
section{background:var(--paper);border:1px solid var(--line);border-radius:.8rem;padding:1.5rem}\
section.wide{grid-column:1/-1}h1{font:600 2.2rem/1.2 Georgia,serif;margin:0 0 .5rem}h2{margin:0 0 1rem;font-size:1.1rem}\
dl{display:grid;grid-template-columns:auto 1fr;gap:.3rem 1.2rem;margin:0}dt{color:var(--soft)}dd{margin:0}\
blockquote{margin:0 0 1.2rem;padding-left:1rem;border-left:3px solid var(--line)}\
cite{color:var(--soft);font-style:normal;font-size:.9rem}.stars{font-size:1.3rem;letter-spacing:.1em}\
.black{color:#1d2733}.red{color:#c8102e}.off{opacity:.2}.trouble{color:#a4341f}footer{color:var(--soft);\
font-size:.85rem;margin-top:1rem}@media(max-width:44rem){main{grid-template-columns:1fr}}";

/// The whole document.
pub(crate) fn render(page: &Page<'_>) -> String {
    let title = escape(page.product["title"].as_str().unwrap_or_default());
    let summary = escape(page.product["description"].as_str().unwrap_or_default());
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>Bookinfo: {title}</title>\
         <link rel=\"stylesheet\" href=\"/static/style.css\"></head><body><header><b>Bookinfo</b>{}</header><main>\
         <section class=\"wide\"><h1>{title}</h1><p>{summary}</p></section>",
        sign_in(page.user)
    );
    html.push_str("<section><h2>Book details</h2>");
    details(&mut html, page.details);
    html.push_str("</section><section><h2>Book reviews</h2>");
    reviews(&mut html, page.reviews);
    html.push_str("</section></main></body></html>");
    html
}

fn sign_in(user: Option<&str>) -> String {
    match user {
        Some(user) => format!("<span>{}</span> <a href=\"/logout\">sign out</a>", escape(user)),
        None => "<form method=\"post\" action=\"/login\"><input name=\"username\" placeholder=\"user name\" required>\
                 <button>Sign in</button></form>"
            .to_owned(),
    }
}

fn details(html: &mut String, details: Option<&Value>) {
    let Some(details) = details else {
        html.push_str(
            "<p class=\"trouble\">Sorry, product details are currently unavailable for this book.</p>",
        );
        return;
    };
    html.push_str("<dl>");
    for (label, field) in [
        ("Author", "author"),
        ("Year", "year"),
        ("Type", "type"),
        ("Pages", "pages"),
        ("Publisher", "publisher"),
        ("Language", "language"),
        ("ISBN-10", "ISBN-10"),
        ("ISBN-13", "ISBN-13"),
    ] {
        let _ = write!(html, "<dt>{label}</dt><dd>{}</dd>", escape(&plain(&details[field])));
    }
    html.push_str("</dl>");
}

fn reviews(html: &mut String, reviews: Option<&Value>) {
    let Some(answer) = reviews else {
        html.push_str(
            "<p class=\"trouble\">Sorry, product reviews are currently unavailable for this book.</p>",
        );
        return;
    };
    for review in answer["reviews"].as_array().into_iter().flatten() {
        let _ = write!(
            html,
            "<blockquote><p>{}</p><cite>{}</cite>",
            escape(&plain(&review["text"])),
            escape(&plain(&review["reviewer"]))
        );
        stars(html, &review["rating"]);
        html.push_str("</blockquote>");
    }
    let _ = write!(html, "<footer>Reviews served by {}</footer>", escape(&plain(&answer["podname"])));
}

fn stars(html: &mut String, rating: &Value) {
    if let Some(error) = rating["error"].as_str() {
        let _ = write!(html, "<p class=\"trouble\">{}</p>", escape(error));
    } else if let Some(stars) = rating["stars"].as_u64() {
        let color = if rating["color"] == "red" { "red" } else { "black" };
        let full = "★".repeat(stars.min(5) as usize);
        let rest = "★".repeat(5 - stars.min(5) as usize);
        let _ = write!(
            html,
            "<div class=\"stars {color}\" title=\"{stars} of 5\">{full}<span class=\"off\">{rest}</span></div>"
        );
    }
}

/// A JSON value as text without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(details: Option<Value>, reviews: Option<Value>, user: Option<&str>) -> String {
        let product = json!({"title": "A <b>book</b>", "description": "x"});
        render(&Page { product: &product, details: details.as_ref(), reviews: reviews.as_ref(), user })
    }

    #[test]
    fn missing_answers_are_said_to_be_missing() {
        let html = rendered(None, None, None);
        assert!(html.contains("product details are currently unavailable"));
        assert!(html.contains("product reviews are currently unavailable"));
    }

    #[test]
    fn stars_have_the_colour_of_their_version() {
        for (color, class) in [("black", "stars black"), ("red", "stars red")] {
            let review = json!({"reviewer": "A", "text": "t", "rating": {"stars": 4, "color": color}});
            let html = rendered(None, Some(json!({"podname": "p", "reviews": [review]})), None);
            assert!(html.contains(class) && html.contains("★★★★<span"), "{color}");
        }
        let html =
            rendered(None, Some(json!({"podname": "p", "reviews": [{"reviewer": "A", "text": "t"}]})), None);
        assert!(!html.contains('★'), "the first version of reviews has no stars");
    }

    #[test]
    fn text_from_others_is_escaped() {
        let html = rendered(None, None, Some("<script>"));
        assert!(!html.contains("<script>") && html.contains("A &lt;b&gt;book"));
    }
}
