//! A small tree of XML elements, because libvirt's API is text.
//!
//! ```text
//!   live XML ──parse, capped──► Element ──changed──► write ──► the XML of one device
//! ```
//!
//! A domain's XML carries parts that others wrote (`<metadata>`, `<qemu:commandline>`), so it is
//! read as hostile: size, depth, elements and attributes are capped, and a document type, the only
//! way to define entities, is refused. Text between tags is dropped: nothing read here is text.

use quick_xml::events::{BytesEnd, BytesStart, Event};
use quick_xml::{Reader, Writer, XmlVersion};

/// Longest document accepted, in bytes. A domain with 256 devices has about 100 KiB.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// Deepest nesting accepted; libvirt's own schema ends at about 10.
const MAX_DEPTH: usize = 64;
/// Most elements accepted: `<a/>` a million times would fit into [`MAX_BYTES`].
const MAX_ELEMENTS: usize = 65_536;
/// Most attributes of one element: finding duplicates takes quadratic time.
const MAX_ATTRIBUTES: usize = 64;

/// Why a text is no XML that is read here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum XmlError {
    /// [`MAX_BYTES`].
    #[error("the XML has {bytes} bytes, more than {MAX_BYTES}")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// [`MAX_DEPTH`].
    #[error("the XML nests deeper than {MAX_DEPTH}")]
    TooDeep,
    /// [`MAX_ELEMENTS`].
    #[error("the XML has more than {MAX_ELEMENTS} elements")]
    TooManyElements,
    /// [`MAX_ATTRIBUTES`].
    #[error("an element of the XML has more than {MAX_ATTRIBUTES} attributes")]
    TooManyAttributes,
    /// Entities could be defined in it.
    #[error("the XML has a document type")]
    DocumentType,
    /// Nothing in it, or cut off.
    #[error("the XML has no complete root element")]
    Incomplete,
    /// Anything else.
    #[error("the XML is malformed")]
    Malformed(#[from] quick_xml::Error),
    /// Anything else, in an attribute.
    #[error("an attribute of the XML is malformed")]
    Attribute(#[from] quick_xml::events::attributes::AttrError),
}

/// One element, its text left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    children: Vec<Element>,
}

impl Element {
    /// An element called `name` with nothing in it.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            attributes: Vec::new(),
            children: Vec::new(),
        }
    }

    /// The same with one attribute more.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.attributes.push((name.to_owned(), value.into()));
        self
    }

    /// The same with one child more.
    pub(crate) fn containing(mut self, child: Element) -> Self {
        self.children.push(child);
        self
    }

    /// The same without the children called `name`.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.children.retain(|child| child.name != name);
        self
    }

    /// Its qualified name, as written.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The value of one attribute.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Every child, in order.
    pub(crate) fn children(&self) -> &[Element] {
        &self.children
    }

    /// Every child called `name`, in order.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first child called `name`.
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The attribute of the first child called `child`.
    pub(crate) fn child_attribute(&self, child: &str, attribute: &str) -> Option<&str> {
        self.child(child)?.attribute(attribute)
    }

    /// The document of which this is the root.
    pub(crate) fn write(&self) -> String {
        let mut writer = Writer::new(Vec::new());
        self.write_into(&mut writer)
            .expect("writing into memory cannot fail");
        String::from_utf8(writer.into_inner()).expect("only strings were written")
    }

    fn write_into(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        let mut start = BytesStart::new(self.name.as_str());
        for (name, value) in &self.attributes {
            start.push_attribute((name.as_str(), value.as_str()));
        }
        if self.children.is_empty() {
            return writer.write_event(Event::Empty(start));
        }
        writer.write_event(Event::Start(start))?;
        for child in &self.children {
            child.write_into(writer)?;
        }
        writer.write_event(Event::End(BytesEnd::new(self.name.as_str())))
    }
}

/// The root element of a document.
pub(crate) fn parse(text: &str) -> Result<Element, XmlError> {
    if text.len() > MAX_BYTES {
        return Err(XmlError::TooLong { bytes: text.len() });
    }
    let mut reader = Reader::from_str(text);
    let mut tree = Tree::default();
    loop {
        let finished = match reader.read_event()? {
            Event::Start(start) => {
                tree.open(&start)?;
                None
            }
            Event::Empty(start) => {
                tree.open(&start)?;
                tree.close()
            }
            Event::End(_) => tree.close(),
            Event::DocType(_) => return Err(XmlError::DocumentType),
            Event::Eof => return Err(XmlError::Incomplete),
            Event::Text(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::GeneralRef(_) => None,
        };
        if let Some(root) = finished {
            return Ok(root);
        }
    }
}

/// The elements that are open, root first, so that a hostile depth costs no stack.
#[derive(Default)]
struct Tree {
    open: Vec<Element>,
    elements: usize,
}

impl Tree {
    fn open(&mut self, start: &BytesStart<'_>) -> Result<(), XmlError> {
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(XmlError::TooManyElements);
        }
        if self.open.len() == MAX_DEPTH {
            return Err(XmlError::TooDeep);
        }
        let mut element = Element::new(start.name().as_ref());
        for attribute in start.attributes() {
            if element.attributes.len() == MAX_ATTRIBUTES {
                return Err(XmlError::TooManyAttributes);
            }
            let attribute = attribute?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0)?;
            element = element.with(attribute.key.as_ref(), value);
        }
        self.open.push(element);
        Ok(())
    }

    /// The root, when it is what was closed.
    fn close(&mut self) -> Option<Element> {
        let closed = self.open.pop()?;
        match self.open.last_mut() {
            Some(parent) => {
                parent.children.push(closed);
                None
            }
            None => Some(closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let element = Element::new("interface")
            .with("type", "ethernet")
            .containing(
                Element::new("target")
                    .with("dev", "a\"b'<&>c")
                    .with("managed", "no"),
            );

        assert_eq!(parse(&element.write()).unwrap(), element);
    }

    #[test]
    fn a_document_over_the_size_cap_is_refused_unread() {
        let text = format!("<domain>{}</domain>", " ".repeat(MAX_BYTES));

        assert!(matches!(parse(&text), Err(XmlError::TooLong { .. })));
    }

    #[test]
    fn nesting_beyond_the_cap_is_refused() {
        let text = "<a>".repeat(100_000);

        assert!(matches!(parse(&text), Err(XmlError::TooDeep)));
    }

    #[test]
    fn a_flood_of_elements_is_refused() {
        let text = format!("<domain>{}</domain>", "<a/>".repeat(100_000));

        assert!(matches!(parse(&text), Err(XmlError::TooManyElements)));
    }

    #[test]
    fn a_flood_of_attributes_is_refused() {
        let attributes: String = (0..100_000)
            .map(|number| format!(" a{number}=''"))
            .collect();
        let text = format!("<domain{attributes}/>");

        assert!(matches!(parse(&text), Err(XmlError::TooManyAttributes)));
    }

    #[test]
    fn a_document_type_is_refused_before_its_entities_count() {
        let text = "<!DOCTYPE d [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><domain name='&b;'/>";

        assert!(matches!(parse(text), Err(XmlError::DocumentType)));
    }

    #[test]
    fn an_undefined_entity_is_an_error() {
        assert!(matches!(
            parse("<domain name='&b;'/>"),
            Err(XmlError::Malformed(_))
        ));
    }

    #[test]
    fn a_document_that_is_cut_off_is_an_error_at_every_byte() {
        let text = "<domain id='1'><name>vm</name><devices/></domain>";

        for end in 0..text.len() {
            assert!(parse(&text[..end]).is_err(), "{}", &text[..end]);
        }
    }
}
