/* Packet protection and trains of STREAM frames in C: the same as `PureKeys` of `packet_keys.py`, call for call.
 *
 * Owns no connection state: it is given numbers and bytes, and gives bytes back. The ciphers are those of the libcrypto
 * that is found at run time; without one, or with a cipher other than AES-GCM, the import or the constructor fails and
 * the Python code does the work. RFC 9000, 17 and 19.8; RFC 9001, 5.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

enum { TAG = 16, SAMPLE = 16, NONCE = 12, LONGEST_CID = 20, LONGEST_NUMBER = 4, OFFSET = 4, MOST_PACKETS = 64 };
enum { CTRL_AEAD_GET_TAG = 0x10, CTRL_AEAD_SET_TAG = 0x11 };

static const uint64_t LARGEST_VARINT = (UINT64_C(1) << 62) - 1;

/* -- libcrypto: the handful of functions whose signatures have been stable since 1.1 */

static struct {
    void *(*context_new)(void);
    void (*context_free)(void *);
    int (*control)(void *, int, int, void *);
    int (*padding)(void *, int);
    int (*encrypt_init)(void *, const void *, void *, const unsigned char *, const unsigned char *);
    int (*encrypt)(void *, unsigned char *, int *, const unsigned char *, int);
    int (*encrypt_final)(void *, unsigned char *, int *);
    int (*decrypt_init)(void *, const void *, void *, const unsigned char *, const unsigned char *);
    int (*decrypt)(void *, unsigned char *, int *, const unsigned char *, int);
    int (*decrypt_final)(void *, unsigned char *, int *);
    const void *(*aes_128_gcm)(void);
    const void *(*aes_256_gcm)(void);
    const void *(*aes_128_ecb)(void);
    const void *(*aes_256_ecb)(void);
} ssl;

static int
load_ssl(void)
{
    static const char *const names[] = {"libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.3.dylib", "libcrypto.so"};
    static const struct {
        const char *name;
        void **where;
    } wanted[] = {
        {"EVP_CIPHER_CTX_new", (void **)&ssl.context_new},
        {"EVP_CIPHER_CTX_free", (void **)&ssl.context_free},
        {"EVP_CIPHER_CTX_ctrl", (void **)&ssl.control},
        {"EVP_CIPHER_CTX_set_padding", (void **)&ssl.padding},
        {"EVP_EncryptInit_ex", (void **)&ssl.encrypt_init},
        {"EVP_EncryptUpdate", (void **)&ssl.encrypt},
        {"EVP_EncryptFinal_ex", (void **)&ssl.encrypt_final},
        {"EVP_DecryptInit_ex", (void **)&ssl.decrypt_init},
        {"EVP_DecryptUpdate", (void **)&ssl.decrypt},
        {"EVP_DecryptFinal_ex", (void **)&ssl.decrypt_final},
        {"EVP_aes_128_gcm", (void **)&ssl.aes_128_gcm},
        {"EVP_aes_256_gcm", (void **)&ssl.aes_256_gcm},
        {"EVP_aes_128_ecb", (void **)&ssl.aes_128_ecb},
        {"EVP_aes_256_ecb", (void **)&ssl.aes_256_ecb},
    };
    void *library = NULL;
    for (size_t i = 0; library == NULL && i < sizeof names / sizeof *names; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        PyErr_SetString(PyExc_ImportError, "no libcrypto was found");
        return -1;
    }
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        *wanted[i].where = dlsym(library, wanted[i].name);
        if (*wanted[i].where == NULL) {
            PyErr_Format(PyExc_ImportError, "libcrypto has no %s", wanted[i].name);
            return -1;
        }
    }
    return 0;
}

/* -- one direction of one key phase */

typedef struct {
    PyObject_HEAD
    void *aead;
    void *header;
    int sealing;
    unsigned char iv[NONCE];
} Keys;

static PyObject *
failed(void)
{
    PyErr_SetString(PyExc_RuntimeError, "libcrypto failed");
    return NULL;
}

static PyObject *
Keys_new(PyTypeObject *type, PyObject *args, PyObject *options)
{
    static char *names[] = {"key", "iv", "header_key", "sealing", NULL};
    const unsigned char *key, *iv, *header_key;
    Py_ssize_t key_size, iv_size, header_size;
    int sealing;
    if (!PyArg_ParseTupleAndKeywords(args, options, "y#y#y#p", names, &key, &key_size, &iv, &iv_size, &header_key,
                                     &header_size, &sealing))
        return NULL;
    if ((key_size != 16 && key_size != 32) || header_size != key_size || iv_size != NONCE) {
        PyErr_SetString(PyExc_ValueError, "a key of AES-128 or AES-256, one for headers, and an IV of 12 bytes");
        return NULL;
    }
    Keys *self = (Keys *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->sealing = sealing;
    memcpy(self->iv, iv, NONCE);
    self->aead = ssl.context_new();
    self->header = ssl.context_new();
    const void *gcm = key_size == 16 ? ssl.aes_128_gcm() : ssl.aes_256_gcm();
    const void *ecb = key_size == 16 ? ssl.aes_128_ecb() : ssl.aes_256_ecb();
    if (self->aead == NULL || self->header == NULL
        || (sealing ? ssl.encrypt_init : ssl.decrypt_init)(self->aead, gcm, NULL, key, NULL) != 1
        || ssl.encrypt_init(self->header, ecb, NULL, header_key, NULL) != 1
        || ssl.padding(self->header, 0) != 1) {
        Py_DECREF(self);
        return failed();
    }
    return (PyObject *)self;
}

static void
Keys_dealloc(Keys *self)
{
    /* Freeing a context wipes its key. */
    if (self->aead != NULL)
        ssl.context_free(self->aead);
    if (self->header != NULL)
        ssl.context_free(self->header);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static void
make_nonce(const Keys *self, uint64_t number, unsigned char *nonce)
{
    memcpy(nonce, self->iv, NONCE);
    for (int i = 0; i < 8; i++)
        nonce[NONCE - 1 - i] ^= (unsigned char)(number >> 8 * i);
}

static int
make_mask(Keys *self, const unsigned char *sample, unsigned char *mask)
{
    int size;
    return ssl.encrypt(self->header, mask, &size, sample, SAMPLE) == 1 && size == SAMPLE;
}

/* Turn a header of `head` bytes, whose last `number_size` are the packet number, and `size` bytes of payload behind it
 * into a protected packet, in place. There is room for the tag. */
static int
seal(Keys *self, unsigned char *packet, size_t head, int number_size, uint64_t number, size_t size)
{
    unsigned char nonce[NONCE], mask[SAMPLE];
    int done;
    make_nonce(self, number, nonce);
    if (ssl.encrypt_init(self->aead, NULL, NULL, NULL, nonce) != 1
        || ssl.encrypt(self->aead, NULL, &done, packet, (int)head) != 1
        || ssl.encrypt(self->aead, packet + head, &done, packet + head, (int)size) != 1
        || ssl.encrypt_final(self->aead, packet + head + size, &done) != 1
        || ssl.control(self->aead, CTRL_AEAD_GET_TAG, TAG, packet + head + size) != 1
        || !make_mask(self, packet + head - number_size + 4, mask))
        return 0;
    packet[0] ^= mask[0] & 0x1F;
    for (int i = 0; i < number_size; i++)
        packet[head - number_size + i] ^= mask[1 + i];
    return 1;
}

static void
put_number(unsigned char *at, uint64_t value, int size)
{
    for (int i = 0; i < size; i++)
        at[i] = (unsigned char)(value >> 8 * (size - 1 - i));
}

/* What every packet begins with: flags, connection id, number. */
typedef struct {
    unsigned char flags;
    const unsigned char *cid;
    size_t cid_size;
    int number_size;
    uint64_t number;
} Head;

static int
read_head(PyObject *const *args, Head *head)
{
    head->number = PyLong_AsUnsignedLongLong(args[0]);
    long number_size = PyLong_AsLong(args[1]);
    long flags = PyLong_AsLong(args[2]);
    if (PyErr_Occurred())
        return 0;
    if (!PyBytes_Check(args[3]) || PyBytes_GET_SIZE(args[3]) > LONGEST_CID || number_size < 1
        || number_size > LONGEST_NUMBER || flags < 0 || flags > 0xFF || head->number > LARGEST_VARINT) {
        PyErr_SetString(PyExc_ValueError, "not the header of a packet");
        return 0;
    }
    head->number_size = (int)number_size;
    head->flags = (unsigned char)flags;
    head->cid = (const unsigned char *)PyBytes_AS_STRING(args[3]);
    head->cid_size = (size_t)PyBytes_GET_SIZE(args[3]);
    return 1;
}

static size_t
put_head(unsigned char *packet, const Head *head, uint64_t number)
{
    packet[0] = head->flags;
    memcpy(packet + 1, head->cid, head->cid_size);
    put_number(packet + 1 + head->cid_size, number, head->number_size);
    return 1 + head->cid_size + (size_t)head->number_size;
}

static int
check_use(Keys *self, int sealing, Py_ssize_t count, Py_ssize_t wanted)
{
    if (count != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd arguments expected, got %zd", wanted, count);
        return 0;
    }
    if (self->sealing != sealing) {
        PyErr_SetString(PyExc_ValueError, "keys of the other direction");
        return 0;
    }
    return 1;
}

/* one(number, number_size, flags, cid, payload) -> packet */
static PyObject *
Keys_one(Keys *self, PyObject *const *args, Py_ssize_t count)
{
    Head head;
    if (!check_use(self, 1, count, 5) || !read_head(args, &head))
        return NULL;
    if (!PyBytes_Check(args[4]) || PyBytes_GET_SIZE(args[4]) < 4 - head.number_size
        || PyBytes_GET_SIZE(args[4]) > 0xFFFF) {
        PyErr_SetString(PyExc_ValueError, "not the payload of a packet");
        return NULL;
    }
    size_t size = (size_t)PyBytes_GET_SIZE(args[4]);
    size_t start = 1 + head.cid_size + (size_t)head.number_size;
    PyObject *result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(start + size + TAG));
    if (result == NULL)
        return NULL;
    unsigned char *packet = (unsigned char *)PyBytes_AS_STRING(result);
    put_head(packet, &head, head.number);
    memcpy(packet + start, PyBytes_AS_STRING(args[4]), size);
    if (!seal(self, packet, start, head.number_size, head.number, size)) {
        Py_DECREF(result);
        return failed();
    }
    return result;
}

/* Where in a list of chunks the next byte is. */
typedef struct {
    PyObject *chunks, *ends;
    Py_ssize_t cursor;
    uint64_t at;
} Source;

static int
copy_from(Source *source, unsigned char *target, uint64_t size)
{
    while (size) {
        if (source->cursor >= PyList_GET_SIZE(source->chunks) || source->cursor >= PyList_GET_SIZE(source->ends))
            goto wrong;
        PyObject *chunk = PyList_GET_ITEM(source->chunks, source->cursor);
        uint64_t end = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(source->ends, source->cursor));
        if (PyErr_Occurred())
            return 0;
        if (!PyBytes_Check(chunk))
            goto wrong;
        uint64_t length = (uint64_t)PyBytes_GET_SIZE(chunk);
        if (end < source->at || end - source->at > length)
            goto wrong;
        uint64_t left = end - source->at;
        uint64_t taken = left < size ? left : size;
        memcpy(target, PyBytes_AS_STRING(chunk) + (length - left), taken);
        target += taken;
        size -= taken;
        source->at += taken;
        if (taken == left)
            source->cursor++;
    }
    return 1;
wrong:
    PyErr_SetString(PyExc_ValueError, "the chunks do not hold what is to be sent");
    return 0;
}

/* run(number, number_size, flags, cid, prefix, chunks, ends, cursor, start, stop, step, fin) -> (packets, cursor) */
static PyObject *
Keys_run(Keys *self, PyObject *const *args, Py_ssize_t count)
{
    Head head;
    if (!check_use(self, 1, count, 12) || !read_head(args, &head))
        return NULL;
    Source source = {args[5], args[6], PyLong_AsSsize_t(args[7]), PyLong_AsUnsignedLongLong(args[8])};
    uint64_t stop = PyLong_AsUnsignedLongLong(args[9]);
    uint64_t step = PyLong_AsUnsignedLongLong(args[10]);
    int fin = PyObject_IsTrue(args[11]);
    if (PyErr_Occurred())
        return NULL;
    if (!PyBytes_Check(args[4]) || PyBytes_GET_SIZE(args[4]) > 8 || !PyList_Check(source.chunks)
        || !PyList_Check(source.ends) || source.cursor < 0 || stop < source.at || stop >= UINT64_C(1) << 30 || step < 1
        || step > 0xFFFF || (stop - source.at) > step * MOST_PACKETS) {
        PyErr_SetString(PyExc_ValueError, "not a train of packets");
        return NULL;
    }
    const char *prefix = PyBytes_AS_STRING(args[4]);
    size_t prefix_size = (size_t)PyBytes_GET_SIZE(args[4]);
    size_t start = 1 + head.cid_size + (size_t)head.number_size;
    size_t frame = 1 + prefix_size + OFFSET;
    uint64_t total = stop - source.at;
    uint64_t packets = total ? (total + step - 1) / step : 1;
    PyObject *result =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(packets * (start + frame + TAG) + total));
    if (result == NULL)
        return NULL;
    unsigned char *packet = (unsigned char *)PyBytes_AS_STRING(result);
    for (uint64_t i = 0; i < packets; i++) {
        int last = i == packets - 1;
        uint64_t size = last ? stop - source.at : step;
        unsigned char *at = packet + put_head(packet, &head, head.number + i);
        *at++ = (unsigned char)(0x0C | (last && fin));
        memcpy(at, prefix, prefix_size);
        at += prefix_size;
        put_number(at, UINT64_C(0x80000000) | source.at, OFFSET);
        if (!copy_from(&source, at + OFFSET, size)) {
            Py_DECREF(result);
            return NULL;
        }
        if (!seal(self, packet, start, head.number_size, head.number + i, frame + size)) {
            Py_DECREF(result);
            return failed();
        }
        packet += start + frame + size + TAG;
    }
    return Py_BuildValue("(Nn)", result, source.cursor);
}

/* What a packet turned out to be. */
enum opened { FORGED, OTHER_PHASE, OPENED, FAILED };

/* Open a packet of `length` bytes, whose number begins at `start`, into `target`, which holds as many. */
static enum opened
open_packet(Keys *self, const unsigned char *data, size_t length, size_t start, uint64_t expected, long phase,
            unsigned char *target, unsigned char *first, uint64_t *number, int *size)
{
    unsigned char mask[SAMPLE], header[1 + LONGEST_CID + LONGEST_NUMBER], nonce[NONCE];
    if (length < start + 4 + SAMPLE || length > 0xFFFF)
        return FORGED;
    if (!make_mask(self, data + start + 4, mask))
        return FAILED;
    memcpy(header, data, start);
    *first = header[0] ^= mask[0] & 0x1F;
    if ((*first >> 2 & 1) != phase)
        return OTHER_PHASE;
    int number_size = (*first & 3) + 1;
    uint64_t truncated = 0;
    for (int i = 0; i < number_size; i++) {
        header[start + (size_t)i] = data[start + (size_t)i] ^ mask[1 + i];
        truncated = truncated << 8 | header[start + (size_t)i];
    }
    uint64_t window = UINT64_C(1) << 8 * number_size;
    *number = (expected & ~(window - 1)) | truncated;
    if (*number + window / 2 <= expected && *number + window <= LARGEST_VARINT)
        *number += window;
    else if (*number > expected + window / 2 && *number >= window)
        *number -= window;
    start += (size_t)number_size;
    *size = (int)(length - start - TAG);
    int done;
    make_nonce(self, *number, nonce);
    if (ssl.decrypt_init(self->aead, NULL, NULL, NULL, nonce) != 1
        || ssl.decrypt(self->aead, NULL, &done, header, (int)start) != 1
        || ssl.decrypt(self->aead, target, &done, data + start, *size) != 1
        || ssl.control(self->aead, CTRL_AEAD_SET_TAG, TAG, (void *)(data + start + *size)) != 1)
        return FAILED;
    return ssl.decrypt_final(self->aead, target + *size, &done) == 1 ? OPENED : FORGED;
}

/* open(datagram, cid_size, expected, phase) -> None | (number, first byte, payload); the payload of another phase, which
 * these keys do not open, is None */
static PyObject *
Keys_open(Keys *self, PyObject *const *args, Py_ssize_t count)
{
    if (!check_use(self, 0, count, 4))
        return NULL;
    Py_ssize_t cid_size = PyLong_AsSsize_t(args[1]);
    uint64_t expected = PyLong_AsUnsignedLongLong(args[2]), number;
    long phase = PyLong_AsLong(args[3]);
    if (PyErr_Occurred())
        return NULL;
    if (!PyBytes_Check(args[0]) || cid_size < 0 || cid_size > LONGEST_CID) {
        PyErr_SetString(PyExc_ValueError, "not a datagram");
        return NULL;
    }
    PyObject *plain = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(args[0]));
    if (plain == NULL)
        return NULL;
    unsigned char first;
    int size;
    switch (open_packet(self, (const unsigned char *)PyBytes_AS_STRING(args[0]), (size_t)PyBytes_GET_SIZE(args[0]),
                        1 + (size_t)cid_size, expected, phase, (unsigned char *)PyBytes_AS_STRING(plain), &first,
                        &number, &size)) {
    case OPENED:
        if (_PyBytes_Resize(&plain, size) < 0)
            return NULL;
        return Py_BuildValue("(KiN)", (unsigned long long)number, first, plain);
    case OTHER_PHASE:
        Py_DECREF(plain);
        return Py_BuildValue("(iiO)", 0, first, Py_None);
    case FORGED:
        Py_DECREF(plain);
        Py_RETURN_NONE;
    default:
        Py_DECREF(plain);
        return failed();
    }
}

static int
read_varint(const unsigned char *data, Py_ssize_t size, Py_ssize_t *at, uint64_t *value)
{
    if (*at >= size)
        return 0;
    int length = 1 << (data[*at] >> 6);
    if (*at + length > size)
        return 0;
    uint64_t result = data[*at] & 0x3F;
    for (int i = 1; i < length; i++)
        result = result << 8 | data[*at + i];
    *at += length;
    *value = result;
    return 1;
}

/* One STREAM frame (RFC 9000, 19.8). */
typedef struct {
    uint64_t id, offset;
    Py_ssize_t begin, stop;
    int fin;
} StreamFrame;

/* Whether a payload is one STREAM frame, and nothing else but padding after it. */
static int
read_only_stream(const unsigned char *data, Py_ssize_t size, StreamFrame *frame)
{
    Py_ssize_t at = 1;
    uint64_t length;
    if (size < 2 || (data[0] & 0xF8) != 0x08 || !read_varint(data, size, &at, &frame->id))
        return 0;
    frame->offset = 0;
    if ((data[0] & 4) && !read_varint(data, size, &at, &frame->offset))
        return 0;
    if (data[0] & 2) {
        if (!read_varint(data, size, &at, &length) || length > (uint64_t)(size - at))
            return 0;
        frame->stop = at + (Py_ssize_t)length;
        for (Py_ssize_t i = frame->stop; i < size; i++)
            if (data[i])
                return 0;
    }
    else
        frame->stop = size;
    frame->begin = at;
    frame->fin = data[0] & 1;
    return 1;
}

/* take(buffer, each, cid, expected, phase) -> None | (packets, type, stream id, offset, data, fin) */
static PyObject *
Keys_take(Keys *self, PyObject *const *args, Py_ssize_t count)
{
    if (!check_use(self, 0, count, 5))
        return NULL;
    Py_ssize_t each = PyLong_AsSsize_t(args[1]);
    uint64_t expected = PyLong_AsUnsignedLongLong(args[3]);
    long phase = PyLong_AsLong(args[4]);
    if (PyErr_Occurred())
        return NULL;
    if (!PyBytes_Check(args[2]) || PyBytes_GET_SIZE(args[2]) > LONGEST_CID || each < 1) {
        PyErr_SetString(PyExc_ValueError, "not a buffer of datagrams");
        return NULL;
    }
    Py_buffer buffer;
    if (PyObject_GetBuffer(args[0], &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *result = NULL;
    PyObject *plain = PyBytes_FromStringAndSize(NULL, buffer.len);
    if (plain == NULL)
        goto over;
    const char *cid = PyBytes_AS_STRING(args[2]);
    size_t start = 1 + (size_t)PyBytes_GET_SIZE(args[2]);
    unsigned char *target = (unsigned char *)PyBytes_AS_STRING(plain);
    Py_ssize_t written = 0, packets = 0;
    StreamFrame begun = {0}, frame;
    int kind = 0, fin = 0;
    for (Py_ssize_t at = 0; at < buffer.len && !fin; at += each) {
        const unsigned char *data = (const unsigned char *)buffer.buf + at;
        size_t length = (size_t)(buffer.len - at < each ? buffer.len - at : each);
        unsigned char first;
        uint64_t number;
        int size;
        if (length < start || data[0] & 0x80 || memcmp(data + 1, cid, start - 1) != 0)
            break;
        /* The payload is shorter than its packet, so what is left of `plain` has room for it. */
        enum opened opened = open_packet(self, data, length, start, expected, phase, target + written, &first,
                                         &number, &size);
        if (opened == FAILED) {
            failed();
            goto over;
        }
        if (opened != OPENED || number != expected || first & 0x18
            || !read_only_stream(target + written, size, &frame))
            break;
        if (!packets) {
            begun = frame;
            kind = target[0];
        }
        else if (frame.id != begun.id || frame.offset != begun.offset + (uint64_t)written)
            break;
        memmove(target + written, target + written + frame.begin, (size_t)(frame.stop - frame.begin));
        written += frame.stop - frame.begin;
        fin = frame.fin;
        packets++;
        expected++;
    }
    if (!packets) {
        result = Py_None;
        Py_INCREF(result);
    }
    else if (_PyBytes_Resize(&plain, written) == 0) {
        result = Py_BuildValue("(niKKNO)", packets, kind, (unsigned long long)begun.id,
                               (unsigned long long)begun.offset, plain, fin ? Py_True : Py_False);
        plain = NULL;
    }
over:
    Py_XDECREF(plain);
    PyBuffer_Release(&buffer);
    return result;
}

static PyMethodDef Keys_methods[] = {
    {"one", (PyCFunction)(void (*)(void))Keys_one, METH_FASTCALL, NULL},
    {"run", (PyCFunction)(void (*)(void))Keys_run, METH_FASTCALL, NULL},
    {"open", (PyCFunction)(void (*)(void))Keys_open, METH_FASTCALL, NULL},
    {"take", (PyCFunction)(void (*)(void))Keys_take, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject KeysType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "relay.quic._kernel.Keys",
    .tp_doc = "See `relay.quic.packet_keys.PureKeys`.",
    .tp_basicsize = sizeof(Keys),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = Keys_new,
    .tp_dealloc = (destructor)Keys_dealloc,
    .tp_methods = Keys_methods,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "relay.quic._kernel",
    .m_size = -1,
};

PyMODINIT_FUNC
PyInit__kernel(void)
{
    if (load_ssl() < 0 || PyType_Ready(&KeysType) < 0)
        return NULL;
    PyObject *result = PyModule_Create(&module);
    if (result == NULL)
        return NULL;
    Py_INCREF(&KeysType);
    if (PyModule_AddObject(result, "Keys", (PyObject *)&KeysType) < 0) {
        Py_DECREF(&KeysType);
        Py_DECREF(result);
        return NULL;
    }
    return result;
}
