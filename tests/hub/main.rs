//! The Hub, against a small server of the test's own on the loopback: what is fetched, what is
//! refused, what is tried again, who gets the token, and what is uploaded.
#![cfg(feature = "hub")]

mod access;
mod binary;
mod datasets;
mod hostile;
mod interrupted;
mod pull;
mod push;
mod repository;
mod server;
#[path = "../support/mod.rs"]
mod support;
