//! Messages of D-Bus as bytes, little-endian, as far as conversations with systemd need them.
//!
//! Pure. It knows no interface. Layout and alignment: the D-Bus specification, "Marshaling" and "Message Format".
//!
//! ```text
//! 'l' kind flags 1 │ length of body │ serial │ array of (code, variant) fields │ pad to 8 │ body
//! ```

/// The largest message that is read; systemd's answers to our questions have a few hundred bytes.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Bytes of a message that tell how long it is.
pub const FIXED: usize = 16;

/// One value of the type system, as far as needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    U32(u32),
    U64(u64),
    Text(String),
    Path(String),
    Signature(String),
    /// An index into the descriptors that came with the message.
    Descriptor(u32),
    /// The signature of an element stands beside them: an array may be empty.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    pub fn variant(value: Value) -> Value {
        Value::Variant(Box::new(value))
    }

    /// `as`
    pub fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
        Value::Array("s".to_owned(), texts.into_iter().map(Value::text).collect())
    }

    fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".to_owned(),
            Value::Bool(_) => "b".to_owned(),
            Value::U32(_) => "u".to_owned(),
            Value::U64(_) => "t".to_owned(),
            Value::Text(_) => "s".to_owned(),
            Value::Path(_) => "o".to_owned(),
            Value::Signature(_) => "g".to_owned(),
            Value::Descriptor(_) => "h".to_owned(),
            Value::Array(of, _) => format!("a{of}"),
            Value::Struct(parts) => format!("({})", signature(parts)),
            Value::Variant(_) => "v".to_owned(),
        }
    }
}

fn signature(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

/// What kind of message it is; others are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Call,
    Return,
    Error,
    Signal,
}

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    /// The call that this answers.
    pub answers: Option<u32>,
    pub member: Option<String>,
    pub error: Option<String>,
    pub body: Vec<Value>,
}

/// A method to call.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub body: Vec<Value>,
}

/// Bytes that are no message that we can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a D-Bus message: {0}")]
pub struct Malformed(&'static str);

/// The bytes of a call.
pub fn encode(call: &Call<'_>, serial: u32) -> Vec<u8> {
    let fields = vec![
        (1, Value::Path(call.path.to_owned())),
        (2, Value::text(call.interface)),
        (3, Value::text(call.member)),
        (6, Value::text(call.destination)),
    ];
    message(1, serial, fields, &call.body)
}

fn message(kind: u8, serial: u32, mut fields: Vec<(u8, Value)>, values: &[Value]) -> Vec<u8> {
    let mut body = Vec::new();
    for value in values {
        put(&mut body, value);
    }
    if !values.is_empty() {
        fields.push((8, Value::Signature(signature(values))));
    }
    let field = |(code, value)| Value::Struct(vec![Value::Byte(code), Value::variant(value)]);
    let fields = fields.into_iter().map(field).collect();
    let mut message = vec![b'l', kind, 0, 1];
    let length = u32::try_from(body.len()).expect("our messages are small");
    put(&mut message, &Value::U32(length));
    put(&mut message, &Value::U32(serial));
    put(&mut message, &Value::Array("(yv)".to_owned(), fields));
    pad(&mut message, 8);
    message.extend(body);
    message
}

/// What the other side says: a method's return, and a signal.
#[cfg(test)]
pub mod other_side {
    use super::{Value, message};

    pub fn answer(to: u32, body: &[Value]) -> Vec<u8> {
        message(2, 1, vec![(5, Value::U32(to))], body)
    }

    pub fn signal(member: &str, body: &[Value]) -> Vec<u8> {
        let path = Value::Path("/org/freedesktop/login1".to_owned());
        message(4, 1, vec![(1, path), (2, Value::text("a.b")), (3, Value::text(member))], body)
    }
}

/// How long the message is that begins with these bytes.
///
/// # Errors
/// Not our byte order or version, or longer than [`MAX_MESSAGE`].
pub fn length(fixed: &[u8; FIXED]) -> Result<usize, Malformed> {
    if fixed[0] != b'l' || fixed[3] != 1 {
        return Err(Malformed("another byte order or version"));
    }
    let number = |at: usize| {
        let bytes = fixed[at..at + 4].try_into().expect("four bytes");
        usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
    };
    let (body, fields) = (number(4), number(12));
    if body > MAX_MESSAGE || fields > MAX_MESSAGE {
        return Err(Malformed("too long"));
    }
    Ok((FIXED + fields).next_multiple_of(8) + body)
}

/// Reads a whole message.
///
/// # Errors
/// Anything but what the specification allows and [`Value`] can hold.
pub fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
    let mut reader = Reader { bytes, at: 0 };
    let header = reader.values("yyyyuua(yv)")?;
    reader.align(8)?;
    let [_, Value::Byte(kind), .., Value::Array(_, fields)] = header.as_slice() else {
        return Err(Malformed("no header"));
    };
    let kind = match kind {
        1 => Kind::Call,
        2 => Kind::Return,
        3 => Kind::Error,
        4 => Kind::Signal,
        _ => return Err(Malformed("unknown kind")),
    };
    let mut message = Message { kind, answers: None, member: None, error: None, body: Vec::new() };
    let mut types = String::new();
    for field in fields {
        let Value::Struct(pair) = field else { continue };
        let [Value::Byte(code), Value::Variant(value)] = pair.as_slice() else { continue };
        match (code, value.as_ref()) {
            (3, Value::Text(member)) => message.member = Some(member.clone()),
            (4, Value::Text(name)) => message.error = Some(name.clone()),
            (5, Value::U32(serial)) => message.answers = Some(*serial),
            (8, Value::Signature(signature)) => types.clone_from(signature),
            // Where it came from and went to: we ask one peer and match answers by their serial.
            _ => {}
        }
    }
    let body = reader.values(&types);
    message.body = match kind {
        Kind::Return | Kind::Error => body?,
        // Anybody may have sent it, with types that we never ask for.
        Kind::Call | Kind::Signal => body.unwrap_or_default(),
    };
    Ok(message)
}

fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Byte(byte) => out.push(*byte),
        Value::Bool(truth) => put(out, &Value::U32(u32::from(*truth))),
        Value::U32(number) | Value::Descriptor(number) => {
            pad(out, 4);
            out.extend(number.to_le_bytes());
        }
        Value::U64(number) => {
            pad(out, 8);
            out.extend(number.to_le_bytes());
        }
        Value::Text(text) | Value::Path(text) => {
            put(out, &Value::U32(u32::try_from(text.len()).expect("our texts are short")));
            out.extend(text.as_bytes());
            out.push(0);
        }
        Value::Signature(text) => {
            out.push(u8::try_from(text.len()).expect("our signatures are short"));
            out.extend(text.as_bytes());
            out.push(0);
        }
        Value::Array(of, items) => {
            put(out, &Value::U32(0));
            let length_at = out.len() - 4;
            pad(out, alignment(of.as_bytes()[0]));
            let start = out.len();
            for item in items {
                put(out, item);
            }
            let length = u32::try_from(out.len() - start).expect("our arrays are short");
            out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        }
        Value::Struct(parts) => {
            pad(out, 8);
            for part in parts {
                put(out, part);
            }
        }
        Value::Variant(value) => {
            put(out, &Value::Signature(value.signature()));
            put(out, value);
        }
    }
}

fn alignment(code: u8) -> usize {
    match code {
        b'y' | b'g' | b'v' => 1,
        b't' | b'(' | b'{' => 8,
        _ => 4,
    }
}

/// The first complete type of a signature, and the rest.
fn first_type(types: &str) -> Result<(&str, &str), Malformed> {
    let bytes = types.as_bytes();
    let mut at = 0;
    while bytes.get(at) == Some(&b'a') {
        at += 1;
    }
    let mut depth = 0i32;
    loop {
        match bytes.get(at) {
            None => return Err(Malformed("a signature that ends too early")),
            Some(b'(') => depth += 1,
            Some(b')') => depth -= 1,
            Some(_) => {}
        }
        at += 1;
        if depth <= 0 {
            return types.split_at_checked(at).ok_or(Malformed("a signature that is not ASCII"));
        }
    }
}

/// Nesting that is followed; the specification allows 64, nothing that we ask for has more than four.
const MAX_DEPTH: usize = 16;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) -> Result<(), Malformed> {
        let at = self.at.next_multiple_of(to);
        self.take(at - self.at).map(drop)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length).ok_or(Malformed("too long"))?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed("it ends too early"))?;
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.align(4)?;
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn string(&mut self, length: usize) -> Result<String, Malformed> {
        let text = self.take(length)?;
        self.take(1)?;
        String::from_utf8(text.to_vec()).map_err(|_| Malformed("a text that is not UTF-8"))
    }

    fn values(&mut self, types: &str) -> Result<Vec<Value>, Malformed> {
        self.values_at(types, 0)
    }

    fn values_at(&mut self, mut types: &str, depth: usize) -> Result<Vec<Value>, Malformed> {
        let mut values = Vec::new();
        while !types.is_empty() {
            let (first, rest) = first_type(types)?;
            values.push(self.value(first, depth)?);
            types = rest;
        }
        Ok(values)
    }

    fn value(&mut self, kind: &str, depth: usize) -> Result<Value, Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed("nested too deeply"));
        }
        Ok(match kind.as_bytes()[0] {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => Value::Bool(self.u32()? != 0),
            b'u' => Value::U32(self.u32()?),
            b'h' => Value::Descriptor(self.u32()?),
            b't' => {
                self.align(8)?;
                Value::U64(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
            }
            code @ (b's' | b'o') => {
                let length = self.u32()? as usize;
                let text = self.string(length)?;
                if code == b's' { Value::Text(text) } else { Value::Path(text) }
            }
            b'g' => {
                let length = usize::from(self.take(1)?[0]);
                Value::Signature(self.string(length)?)
            }
            b'v' => {
                let length = usize::from(self.take(1)?[0]);
                let types = self.string(length)?;
                if types.is_empty() || !first_type(&types)?.1.is_empty() {
                    return Err(Malformed("a variant of not exactly one type"));
                }
                Value::Variant(Box::new(self.value(&types, depth + 1)?))
            }
            b'(' => {
                self.align(8)?;
                Value::Struct(self.values_at(&kind[1..kind.len() - 1], depth + 1)?)
            }
            b'a' => {
                let of = &kind[1..];
                let length = self.u32()? as usize;
                self.align(alignment(of.as_bytes()[0]))?;
                let end = self.at.checked_add(length).ok_or(Malformed("too long"))?;
                let mut items = Vec::new();
                while self.at < end {
                    items.push(self.value(of, depth + 1)?);
                }
                Value::Array(of.to_owned(), items)
            }
            _ => return Err(Malformed("a type that we never ask for")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: Vec<Value>) -> Call<'static> {
        Call { destination: "d", path: "/p", interface: "i.i", member: "M", body }
    }

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let body = vec![
            Value::text("joey-3fa9c1.scope"),
            Value::Byte(7),
            Value::U64(u64::MAX),
            Value::Array(
                "(sv)".to_owned(),
                vec![
                    Value::Struct(vec![
                        Value::text("PIDs"),
                        Value::variant(Value::Array("u".to_owned(), vec![Value::U32(41)])),
                    ]),
                    Value::Struct(vec![Value::text("Delegate"), Value::variant(Value::Bool(true))]),
                ],
            ),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
            Value::texts(["a", "ä"]),
        ];
        let bytes = encode(&call(body.clone()), 3);
        assert_eq!(length(bytes[..FIXED].try_into().unwrap()), Ok(bytes.len()));
        let read = decode(&bytes).unwrap();
        assert_eq!((read.kind, read.member.as_deref()), (Kind::Call, Some("M")));
        assert_eq!(read.body, body);
    }

    /// Byte for byte what the specification's rules give for one text, counted by hand.
    #[test]
    fn the_layout_is_the_specifications() {
        let bytes = encode(&call(vec![Value::text("x")]), 1);
        let mut expected = vec![b'l', 1, 0, 1, 6, 0, 0, 0, 1, 0, 0, 0, 69, 0, 0, 0];
        expected.extend(b"\x01\x01o\0\x02\0\0\0/p\0\0\0\0\0\0");
        expected.extend(b"\x02\x01s\0\x03\0\0\0i.i\0\0\0\0\0");
        expected.extend(b"\x03\x01s\0\x01\0\0\0M\0\0\0\0\0\0\0");
        expected.extend(b"\x06\x01s\0\x01\0\0\0d\0\0\0\0\0\0\0");
        expected.extend(b"\x08\x01g\0\x01s\0");
        expected.resize(expected.len().next_multiple_of(8), 0);
        expected.extend(b"\x01\0\0\0x\0");
        // The length of the fields is what it is without the padding behind them.
        expected[12] = u8::try_from(expected.len() - 6 - 16 - 1).unwrap();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn no_bytes_make_the_reader_panic() {
        let good = other_side::answer(9, &[Value::texts(["a"]), Value::variant(Value::U32(1))]);
        for at in 0..good.len() {
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
            for value in [0, 1, 2, 0x61, 0x76, 0x28, 0x29, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let _ = decode(&bytes);
            }
        }
        let mut long = good;
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(length(long[..FIXED].try_into().unwrap()), Err(Malformed("too long")));
    }
}
