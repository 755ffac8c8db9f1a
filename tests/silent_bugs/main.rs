//! The bugs that this field ships again and again, none of which stops a run: one test each, named
//! after the bug. Every one is refused, right, or counted here. What is right comes from a text
//! written out by hand or from a sum done in the test, never from the program.

mod config;
mod data;
mod labels;
mod loss;
mod rows;
mod saved;

#[path = "../common/mod.rs"]
mod common;
#[path = "../support/mod.rs"]
mod support;
