//! What a layer's service is: HTTP, or anything.

/// HTTP: requests are refused with a response, and counted to the end of the response body.
#[derive(Debug, Clone, Copy, Default)]
pub struct Http;

/// Any tower service: requests are refused with an error, and counted to the end of the response
/// future.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnyService;
