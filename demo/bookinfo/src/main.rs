//! Bookinfo: a book shop of four small services that know nothing of a mesh.
//!
//! `productpage` asks `details` and `reviews`; `reviews` v2 and v3 ask `ratings`. All of it is plain HTTP between
//! service names. The only thing a service does for the mesh is what any well-behaved service does: it passes on trace
//! headers and `end-user` ([`forward`]).

mod details;
mod forward;
mod page;
mod productpage;
mod ratings;
mod reviews;
mod serve;

use std::net::SocketAddr;

use clap::{Parser, Subcommand};

/// The services of the book shop.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// The address to listen on.
    #[arg(long, global = true, default_value = "0.0.0.0:9080")]
    listen: SocketAddr,
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// The page that people see.
    Productpage(productpage::Options),
    /// Facts about a book.
    Details {
        /// The version to be; both say the same.
        #[arg(long, default_value = "v1")]
        version: String,
    },
    /// What readers say about a book: v1 without stars, v2 with black ones, v3 with red ones.
    Reviews(reviews::Options),
    /// How many stars readers give a book.
    Ratings {
        /// The version to be; all say the same.
        #[arg(long, default_value = "v1")]
        version: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let arguments = Arguments::parse();
    let (name, router) = match arguments.service {
        Service::Productpage(options) => ("productpage", productpage::router(options)?),
        Service::Details { .. } => ("details", details::router()),
        Service::Reviews(options) => ("reviews", reviews::router(options)?),
        Service::Ratings { .. } => ("ratings", ratings::router()),
    };
    serve::serve(name, arguments.listen, router).await
}
