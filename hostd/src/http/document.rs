//! What the API document says of all endpoints alike: what is served, under which name, and which
//! problems each may answer with. The rest stands with the handlers and the types.

use std::collections::BTreeMap;

use axum::body::Bytes;
use host_api::{Nic, Problem, ProblemCode};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::info::LicenseBuilder;
use utoipa::openapi::server::ServerBuilder;
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder,
};
use utoipa::{IntoResponses, ToSchema};

/// Tags: what an endpoint is about.
pub(super) const NICS: &str = "nics";
pub(super) const VMS: &str = "vms";
pub(super) const OPERATING: &str = "operating";

const DESCRIPTION: &str = "Hot-plugs NICs into the VMs of this host, and carries them into \
    containers there. Served as HTTP/1.1 on a unix socket, /run/nicferry/hostd.sock by default; \
    whoever may open the socket may use it. Unknown fields and parameters are refused by name.";

/// The document before any endpoint is in it.
pub(super) fn head() -> OpenApi {
    let license = LicenseBuilder::new()
        .name(env!("CARGO_PKG_LICENSE"))
        .identifier(Some(env!("CARGO_PKG_LICENSE")));
    let info = InfoBuilder::new()
        .title("hostd")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(license.build()));
    let server = ServerBuilder::new().url("http://hostd").description(Some(
        "Any name will do: the unix socket decides who answers.",
    ));
    let tag = |name, about| {
        TagBuilder::new()
            .name(name)
            .description(Some(about))
            .build()
    };
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([server.build()]))
        .tags(Some([
            tag(NICS, "NICs: made, attached, moved, detached, deleted."),
            tag(VMS, "VMs: what they have and what they may have."),
            tag(OPERATING, "hostd itself."),
        ]))
        .components(Some(components()))
        .build()
}

/// Every answer may be a problem, so its schema is there whatever endpoints are.
fn components() -> Components {
    let mut schemas = vec![(
        Problem::name().into_owned(),
        <Problem as utoipa::PartialSchema>::schema(),
    )];
    Problem::schemas(&mut schemas);
    ComponentsBuilder::new().schemas_from_iter(schemas).build()
}

/// The document as it is served. As values it takes a MiB: they are given up.
pub(super) fn text_of(document: OpenApi) -> Bytes {
    Bytes::from(serde_json::to_vec(&document).expect("a document is made of plain values"))
}

/// Problems that every endpoint may answer with.
pub(super) enum Refusals {}

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(|status| matches!(status, 400 | 403 | 404 | 429 | 500))
    }
}

/// Answers of a mutation: the NIC, or any problem.
pub(super) enum Mutated {}

impl IntoResponses for Mutated {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let nic = |description| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Nic::name())));
            let response = ResponseBuilder::new()
                .description(description)
                .content("application/json", content.build());
            RefOr::T(response.build())
        };
        let mut responses = problems(|status| status != 405);
        responses.insert("200".to_owned(), nic("Settled as asked."));
        responses.insert("202".to_owned(), nic("Admitted; still under way."));
        responses
    }
}

/// Each status with its codes, and `default` for those of a newer hostd.
fn problems(may_come: impl Fn(u16) -> bool) -> BTreeMap<String, RefOr<Response>> {
    let mut codes: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for code in ProblemCode::ALL
        .iter()
        .filter(|code| may_come(code.status()))
    {
        codes.entry(code.status()).or_default().push(code.as_str());
    }
    let known = codes
        .into_iter()
        .map(|(status, codes)| (status.to_string(), codes.join(", ")));
    let any = ("default".to_owned(), "Any other problem.".to_owned());
    known
        .chain([any])
        .map(|(status, description)| (status, RefOr::T(problem(&description))))
        .collect()
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name())));
    ResponseBuilder::new()
        .description(description)
        .content(Problem::MEDIA_TYPE, content.build())
        .build()
}
