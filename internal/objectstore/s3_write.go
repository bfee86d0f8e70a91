package objectstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// PutIfAbsent implements Store.
func (s *S3) PutIfAbsent(ctx context.Context, key string, content []byte) (Info, error) {
	const step = "put"
	if err := beforeUse(ctx, step, key); err != nil {
		return Info{}, err
	}
	input := s.putInput(key, content)
	input.IfNoneMatch = aws.String("*")
	begun, inTime := time.Now(), sendInTime()
	for round := 1; ; round++ {
		written, err := s.put(ctx, step, key, content, input, inTime)
		if !errors.Is(err, errCondition) {
			if errors.Is(err, ErrNotEncrypted) && !tooLate(begun, time.Now()) {
				s.removeUnencrypted(ctx, key, written.versionID)
			}
			return written.info, err
		}
		info, equal, sseErr, err := s.compare(ctx, key, content)
		switch {
		case errors.Is(err, ErrNotFound) && round < s.options.MaxAttempts:
			continue // deleted between the two requests
		case err != nil:
			return Info{}, fmt.Errorf("%s %s: find out whose object is there: %w", step, key, err)
		case !equal:
			return Info{}, fmt.Errorf("%s %s: %w", step, key, ErrExists)
		case sseErr != nil:
			// With one request sent, the object is older than this call, and not this call's to delete.
			if written.attempts > 1 && !tooLate(begun, time.Now()) {
				s.removeUnencrypted(ctx, key, nil)
			}
			return Info{}, fmt.Errorf("%s %s: %w", step, key, sseErr)
		}
		return info, nil
	}
}

// PutIfMatch implements Store. When the store did not encrypt the new version it is removed only where the bucket
// keeps versions: the object that it replaced would be gone otherwise.
func (s *S3) PutIfMatch(ctx context.Context, key string, content []byte, etag string) (Info, error) {
	const step = "replace"
	if err := beforeUse(ctx, step, key); err != nil {
		return Info{}, err
	}
	if etag == "" { // an empty header would be no condition at all
		return Info{}, fmt.Errorf("%s %s: %w: no version was named", step, key, ErrChanged)
	}
	input := s.putInput(key, content)
	input.IfMatch = aws.String(`"` + etag + `"`)
	written, err := s.put(ctx, step, key, content, input)
	switch {
	case err == nil:
		return written.info, nil
	case errors.Is(err, ErrNotEncrypted):
		if written.versionID != nil {
			s.removeUnencrypted(ctx, key, written.versionID)
		}
		return Info{}, err
	case errors.Is(err, ErrNotFound):
		return Info{}, fmt.Errorf("%s %s: %w: there is none", step, key, ErrChanged)
	case !errors.Is(err, errCondition):
		return Info{}, err
	}
	info, equal, sseErr, err := s.compare(ctx, key, content)
	switch {
	case errors.Is(err, ErrNotFound), err == nil && !equal:
		return Info{}, fmt.Errorf("%s %s: %w", step, key, ErrChanged)
	case err != nil:
		return Info{}, fmt.Errorf("%s %s: find out whose object is there: %w", step, key, err)
	case sseErr != nil:
		return Info{}, fmt.Errorf("%s %s: %w", step, key, sseErr)
	}
	return info, nil
}

// Delete implements Store. In a bucket that keeps versions it leaves them, and a delete marker.
func (s *S3) Delete(ctx context.Context, key string) error {
	const step = "delete"
	if err := beforeUse(ctx, step, key); err != nil {
		return err
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(s.options.Bucket), Key: s.name(key)})
	if err = s.fail(ctx, step, key, err); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

func (s *S3) putInput(key string, content []byte) *s3.PutObjectInput {
	input := &s3.PutObjectInput{
		Bucket:        aws.String(s.options.Bucket),
		Key:           s.name(key),
		ContentLength: aws.Int64(int64(len(content))),
		ContentType:   aws.String("application/octet-stream"),
	}
	switch s.options.SSE {
	case SSES3:
		input.ServerSideEncryption = types.ServerSideEncryptionAes256
	case SSEKMS:
		input.ServerSideEncryption = types.ServerSideEncryptionAwsKms
		if s.options.SSEKMSKeyID != "" {
			input.SSEKMSKeyId = aws.String(s.options.SSEKMSKeyID)
		}
	}
	return input
}

// putResult is what is known after a PutObject, also one that failed.
type putResult struct {
	info      Info
	attempts  int     // requests sent
	versionID *string // nil when the bucket keeps no versions
}

// put sends one PutObject (again, when it must) and checks the answer. errCondition when the store says that the
// condition does not hold; ErrNotEncrypted when it wrote without encrypting as asked.
func (s *S3) put(ctx context.Context, step, key string, content []byte, input *s3.PutObjectInput, more ...func(*s3.Options)) (putResult, error) {
	digest := sha256.Sum256(content)
	checksum := base64.StdEncoding.EncodeToString(digest[:])
	if s.options.Checksums == ChecksumsWhenSupported {
		input.ChecksumSHA256 = aws.String(checksum)
	}
	input.Body = bytes.NewReader(content)
	var result putResult
	output, err := s.client.PutObject(ctx, input, append(more, signContent(digest), countAttempts(&result.attempts))...)
	if err != nil {
		return result, s.fail(ctx, step, key, err)
	}
	if output.VersionId != nil && *output.VersionId != "null" {
		result.versionID = output.VersionId
	}
	if err := s.confirmEncryption(output.ServerSideEncryption, output.SSEKMSKeyId); err != nil {
		return result, fmt.Errorf("%s %s: %w", step, key, err)
	}
	if answered := aws.ToString(output.ChecksumSHA256); answered != "" && answered != checksum {
		return result, fmt.Errorf("%s %s: store has other content than was sent: its SHA-256 is %s, sent was %s", step, key, answered, checksum)
	}
	written, ok := awsmiddleware.GetServerTime(output.ResultMetadata)
	if !ok {
		written = time.Now()
	}
	result.info = Info{Key: key, Size: int64(len(content)), ETag: bareETag(output.ETag), Modified: written.UTC()}
	if result.info.ETag == "" {
		return result, fmt.Errorf("%s %s: store answered without an ETag", step, key)
	}
	return result, nil
}

// creationWindow is how long after its first attempt a conditional creation may be sent. A key may become free again: a snapshot is deleted an hour
// after it was stored at the earliest (docs/format.md, "History and plans"). A machine that was suspended between two
// attempts must not create it anew then. The store itself refuses what was signed more than 15 minutes ago.
const creationWindow = 10 * time.Minute

// tooLate compares by the wall clock: the monotonic one may stand still while a machine is suspended.
func tooLate(begun, now time.Time) bool { return now.Round(0).Sub(begun.Round(0)) > creationWindow }

// sendInTime refuses to send an attempt that was signed later than creationWindow after the first one. It looks at the times in the signatures, so
// that nothing can come between looking and signing. It is made anew for each call.
func sendInTime() func(*s3.Options) {
	var first time.Time
	check := middleware.FinalizeMiddlewareFunc("hourvaultCreationWindow", func(
		ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
	) (out middleware.FinalizeOutput, metadata middleware.Metadata, err error) {
		request, ok := in.Request.(*smithyhttp.Request)
		if !ok {
			panic("objectstore: internal error: the SDK's request is of another type")
		}
		signed, err := time.Parse("20060102T150405Z", request.Header.Get("X-Amz-Date"))
		if err != nil {
			return out, metadata, fmt.Errorf("time of the signature: %w", err)
		}
		if first.IsZero() {
			first = signed
		}
		if tooLate(first, signed) {
			return out, metadata, fmt.Errorf("not sent again %s after the first attempt, because the object may have been stored, used and deleted since; was this machine suspended?", signed.Sub(first))
		}
		return next.HandleFinalize(ctx, in)
	})
	return s3.WithAPIOptions(func(stack *middleware.Stack) error { return stack.Finalize.Insert(check, "Signing", middleware.After) })
}

// signContent makes the SHA-256 of the content part of the signature (header x-amz-content-sha256), so that every
// store that checks signatures checks the content, over TLS too, where the SDK would leave it out.
func signContent(digest [sha256.Size]byte) func(*s3.Options) {
	set := middleware.InitializeMiddlewareFunc("hourvaultPayloadHash", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (middleware.InitializeOutput, middleware.Metadata, error) {
		return next.HandleInitialize(v4.SetPayloadHash(ctx, hex.EncodeToString(digest[:])), in)
	})
	return s3.WithAPIOptions(func(stack *middleware.Stack) error { return stack.Initialize.Add(set, middleware.After) })
}

// countAttempts adds one to count for each request sent.
func countAttempts(count *int) func(*s3.Options) {
	counter := middleware.DeserializeMiddlewareFunc("hourvaultCountAttempts", func(
		ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
	) (middleware.DeserializeOutput, middleware.Metadata, error) {
		*count++
		return next.HandleDeserialize(ctx, in)
	})
	return s3.WithAPIOptions(func(stack *middleware.Stack) error { return stack.Deserialize.Add(counter, middleware.After) })
}

// compare settles a condition that does not hold: are the bytes there the ones of this call? sseErr says, for equal
// ones, whether they are encrypted as asked.
func (s *S3) compare(ctx context.Context, key string, content []byte) (info Info, equal bool, sseErr, err error) {
	body, output, info, err := s.open(ctx, "get", key)
	if err != nil {
		return Info{}, false, nil, err
	}
	defer body.Close()
	if info.Size != int64(len(content)) {
		return info, false, nil, nil
	}
	for rest, part := content, make([]byte, min(len(content), 1<<20)); len(rest) > 0; {
		part = part[:min(len(part), len(rest))]
		if _, err := io.ReadFull(body, part); err != nil {
			return info, false, nil, err
		}
		if !bytes.Equal(part, rest[:len(part)]) {
			return info, false, nil, nil
		}
		rest = rest[len(part):]
	}
	return info, true, s.confirmEncryption(output.ServerSideEncryption, output.SSEKMSKeyId), nil
}

// confirmEncryption compares what the store says it did with what it was asked for.
func (s *S3) confirmEncryption(algorithm types.ServerSideEncryption, keyID *string) error {
	if s.options.SSE == SSENone {
		return nil
	}
	if string(algorithm) != string(s.options.SSE) {
		answered := string(algorithm)
		if answered == "" {
			answered = "no encryption"
		}
		return fmt.Errorf("%w: asked for %s, answered %s: use a store that encrypts, or say sse none", ErrNotEncrypted, s.options.SSE, answered)
	}
	if s.options.SSE == SSEKMS && !sameKMSKey(s.options.SSEKMSKeyID, aws.ToString(keyID)) {
		return fmt.Errorf("%w: asked for the KMS key %s, answered %q", ErrNotEncrypted, s.options.SSEKMSKeyID, aws.ToString(keyID))
	}
	return nil
}

// sameKMSKey says whether a store that was asked for one key and names another in its answer can mean the same one.
// Asked may be a key id, a key ARN, an alias or an alias ARN ("" for any key); the answer is a key ARN from AWS, a
// bare id from others. What an alias stands for only KMS knows: there the account and region are compared, if given.
func sameKMSKey(asked, answered string) bool {
	if asked == "" || asked == answered {
		return true
	}
	if answered == "" {
		return false
	}
	askedScope, askedName := splitKMSKey(asked)
	answeredScope, answeredName := splitKMSKey(answered)
	if askedScope != "" && answeredScope != "" && askedScope != answeredScope {
		return false
	}
	if strings.HasPrefix(askedName, "alias/") {
		return true
	}
	return strings.TrimPrefix(askedName, "key/") == strings.TrimPrefix(answeredName, "key/")
}

// splitKMSKey cuts "arn:aws:kms:<region>:<account>:key/<id>" into what is before and after its last ':'. The ARNs of
// stores other than AWS ("arn:aws:kms:<id>") have no region and account to compare.
func splitKMSKey(key string) (scope, name string) {
	i := strings.LastIndexByte(key, ':')
	if i < 0 {
		return "", key
	}
	if strings.Count(key, ":") == 5 {
		scope = key[:i]
	}
	return scope, key[i+1:]
}

// removeUnencrypted takes back what the store wrote in the clear, as far as it lets us; the caller reports the cause.
func (s *S3) removeUnencrypted(ctx context.Context, key string, versionID *string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	input := &s3.DeleteObjectInput{Bucket: aws.String(s.options.Bucket), Key: s.name(key), VersionId: versionID}
	if _, err := s.client.DeleteObject(ctx, input); err != nil && versionID != nil {
		// Deleting versions is a permission of its own.
		input.VersionId = nil
		_, _ = s.client.DeleteObject(ctx, input)
	}
}

// bareETag is the ETag without the quotes that HTTP puts around it.
func bareETag(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }
