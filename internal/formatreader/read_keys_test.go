package formatreader

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// derive is HKDF of section 2 with a label of section 4.
func derive(key, salt []byte, label string) []byte {
	derived, err := hkdf.Key(sha256.New, key, salt, "hourvault/1 "+label, 32)
	if err != nil {
		panic("formatreader: internal error: " + err.Error())
	}
	return derived
}

// keyedHash is HMAC of section 2.
func keyedHash(key []byte, data ...[]byte) []byte {
	mac := hmac.New(sha256.New, key)
	for _, piece := range data {
		mac.Write(piece)
	}
	return mac.Sum(nil)
}

// openGCM opens nonce, ciphertext and tag, as they lie one behind the other.
func openGCM(key, sealed, associated []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	if len(sealed) < gcm.NonceSize()+gcm.Overhead() {
		return nil, damage("%d bytes cannot be sealed", len(sealed))
	}
	text, err := gcm.Open(nil, sealed[:gcm.NonceSize()], sealed[gcm.NonceSize():], associated)
	if err != nil {
		return nil, damage("%v", err)
	}
	return text, nil
}

// rootKey is a local root key: its id and its wrapping key.
type rootKey struct {
	id       string
	wrapping []byte
}

// parseRootKey reads the material of a local root key. Section 4.
func parseRootKey(material []byte) (rootKey, error) {
	key := material
	if len(material) != 32 {
		text := strings.TrimSuffix(string(material), "\n")
		if len(text) != 44 {
			return rootKey{}, fmt.Errorf("a root key is 32 bytes or 44 characters of Base64, not %d bytes", len(material))
		}
		var err error
		if key, err = decodeBase64(text); err != nil {
			return rootKey{}, err
		}
		if len(key) != 32 {
			return rootKey{}, fmt.Errorf("a root key of %d bytes", len(key))
		}
	}
	return rootKey{
		id:       "local-" + hex.EncodeToString(derive(key, nil, "root key id")[:8]),
		wrapping: derive(key, nil, "root wrap"),
	}, nil
}

// decodeBase64 decodes the one spelling that section 2 allows.
func decodeBase64(text string) ([]byte, error) {
	decoded, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, damage("not Base64")
	}
	return decoded, nil
}

// decodeHex decodes lower-case hexadecimal digits that stand for size bytes.
func decodeHex(text string, size int) ([]byte, error) {
	decoded, err := hex.DecodeString(text)
	if err != nil || len(decoded) != size || strings.ToLower(text) != text {
		return nil, damage("%q is not %d bytes in lower-case hexadecimal", text, size)
	}
	return decoded, nil
}

// unwrap reads the wrapped key number at <folder><number>/<repository>/<root> or <folder><number>/<root>: key is the
// full key of the object. workspace is zero for the repository key.
func (r *repository) unwrap(key string, workspace [16]byte, number uint32) ([]byte, error) {
	content, err := r.store.get(key, 64<<10)
	if err != nil {
		return nil, err
	}
	var wrap struct {
		Format  int64  `json:"format"`
		Wrapped string `json:"wrapped"`
	}
	tree, err := parseJSON(content)
	if err == nil {
		err = decodeJSON(tree, &wrap)
	}
	if err == nil {
		err = checkFormat(wrap.Format)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	sealed, err := decodeBase64(wrap.Wrapped)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	associated := []byte("hourvault/1 wrap")
	associated = append(associated, r.id[:]...)
	associated = append(associated, workspace[:]...)
	associated = binary.BigEndian.AppendUint32(associated, number)
	associated = append(associated, r.root.id...)
	secret, err := openGCM(r.root.wrapping, sealed, associated)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	if len(secret) != 32 {
		return nil, damage("open %s: a key of %d bytes", key, len(secret))
	}
	return secret, nil
}

// key returns the workspace key with a number, unwrapping it the first time.
func (w *workspace) key(number uint32) ([]byte, error) {
	if key, ok := w.keys[number]; ok {
		return key, nil
	}
	if number == 0 {
		return nil, damage("key number 0")
	}
	folder := fmt.Sprintf("workspaces/%x/keys/%d/", w.id, number)
	key, err := w.repository.unwrap(folder+w.repository.root.id, w.id, number)
	if errors.Is(err, errNotFound) {
		return nil, fmt.Errorf("read %s: %w", folder, errNoWrap)
	}
	if err != nil {
		return nil, err
	}
	w.keys[number] = key
	return key, nil
}
