//! What several benches share: one request, and the services that are compared.
// Each bench is a program of its own, and uses a part of it.
#![allow(dead_code)]

pub mod by_hand;
pub mod keep;
pub mod peers;
pub mod request;
