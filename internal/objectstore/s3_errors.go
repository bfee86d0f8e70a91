package objectstore

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// errCondition says that If-None-Match or If-Match did not hold; the methods turn it into ErrExists or ErrChanged.
var errCondition = errors.New("condition does not hold")

// skewSuspected is from when on a refusal that gives no reason is put down to the clock. S3 refuses requests signed
// 15 minutes before or after its own time (error code RequestTimeTooSkewed).
const skewSuspected = 10 * time.Minute

// fail turns an error of the SDK into one of this package that names the step and the key and, where that is known,
// what to do. nil stays nil. The codes are those of Amazon S3 API Reference, "Error responses".
func (s *S3) fail(ctx context.Context, step, key string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return endedError(ctx, step, key)
	}
	at := strings.TrimSpace(step + " " + key)
	code, status := apiCode(err), httpStatus(err)
	skew, skewKnown := answeredSkew(err)
	switch {
	case code == "RequestTimeTooSkewed", status == http.StatusForbidden && headOnly(code) && skewKnown && skew.Abs() > skewSuspected:
		return fmt.Errorf("%s: %w: %s: set the clock, by NTP for example", at, ErrClockSkew, describeSkew(skew, skewKnown))
	case code == "NoSuchBucket":
		return fmt.Errorf("%s: %w: %s at %s: create it, or correct bucket, region and endpoint", at, ErrNoBucket, s.options.Bucket, s.place())
	case code == "NoSuchKey", status == http.StatusNotFound && headOnly(code):
		return fmt.Errorf("%s: %w", at, ErrNotFound)
	case code == "PreconditionFailed", status == http.StatusPreconditionFailed:
		return fmt.Errorf("%s: %w", at, errCondition)
	case code == "InvalidAccessKeyId", code == "XAdminUserNotFound" /* versitygw, with status 404 */, code == "SignatureDoesNotMatch", code == "InvalidToken", code == "ExpiredToken", code == "TokenRefreshRequired":
		return fmt.Errorf("%s: %w: %s: check the credentials", at, ErrDenied, describe(err))
	case code == "AuthorizationHeaderMalformed", code == "PermanentRedirect", code == "IllegalLocationConstraintException", status == http.StatusMovedPermanently:
		return fmt.Errorf("%s: %s: set the region of bucket %s%s", at, describe(err), s.options.Bucket, answeredRegion(err))
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fmt.Errorf("%s: %w: %s: the credentials need s3:PutObject, s3:GetObject, s3:DeleteObject and s3:ListBucket on %s%s",
			at, ErrDenied, describe(err), s.Location(), s.keyPermissions())
	case status == http.StatusNotImplemented, status == http.StatusBadRequest && (code == "InvalidArgument" || code == "InvalidRequest"):
		return fmt.Errorf("%s: %s: the request had sse %s and checksums %s: a store that lacks one needs another setting",
			at, describe(err), s.options.SSE, s.options.Checksums)
	}
	if credentials := (*smithy.OperationError)(nil); status == 0 && errors.As(err, &credentials) && strings.Contains(credentials.Err.Error(), "get credentials") {
		return fmt.Errorf("%s: no usable credentials: %w: give an access key, or one of the ways of the AWS SDK (environment, shared files, role)", at, credentials.Err)
	}
	if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
		return fmt.Errorf("%s: connect to %s: %w: give the certificate of its authority as CA file", at, s.place(), unknown)
	}
	if request := (*url.Error)(nil); errors.As(err, &request) {
		return unavailableError{fmt.Errorf("%s: %s%w", at, attempts(err), request.Err)} // without the URL, which repeats the key
	}
	if status >= http.StatusInternalServerError || status == http.StatusTooManyRequests {
		return unavailableError{fmt.Errorf("%s: %s%s", at, attempts(err), describe(err))}
	}
	if status != 0 {
		return fmt.Errorf("%s: %s%s", at, attempts(err), describe(err))
	}
	return fmt.Errorf("%s: %w", at, err)
}

// place names the endpoint or, without one, Amazon's region.
func (s *S3) place() string {
	if s.options.Endpoint != "" {
		return s.options.Endpoint
	}
	return "AWS region " + s.options.Region
}

func (s *S3) keyPermissions() string {
	if s.options.SSE != SSEKMS {
		return ""
	}
	return ", and kms:GenerateDataKey and kms:Decrypt on the key"
}

// describe says what the store answered, without the SDK's frame around it.
func describe(err error) string {
	status, text := httpStatus(err), "answer"
	if api := smithy.APIError(nil); errors.As(err, &api) && api.ErrorCode() != "" {
		text = api.ErrorCode()
		if message := api.ErrorMessage(); message != "" && message != text {
			text += ": " + strings.TrimRight(message, ". \n")
		}
	}
	return fmt.Sprintf("%s (HTTP status %d)", text, status)
}

func attempts(err error) string {
	if exhausted := (*retry.MaxAttemptsError)(nil); errors.As(err, &exhausted) && exhausted.Attempt > 1 {
		return fmt.Sprintf("after %d attempts: ", exhausted.Attempt)
	}
	return ""
}

func apiCode(err error) string {
	if api := smithy.APIError(nil); errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// headOnly says whether the code is one that the SDK made up from the status, because the answer had no body.
func headOnly(code string) bool {
	switch code {
	case "", "NotFound", "Forbidden", "UnknownError":
		return true
	}
	return false
}

func httpResponse(err error) *http.Response {
	if answer := (*smithyhttp.ResponseError)(nil); errors.As(err, &answer) && answer.Response != nil {
		return answer.Response.Response
	}
	return nil
}

func httpStatus(err error) int {
	if response := httpResponse(err); response != nil { //nolint:bodyclose // the SDK has read and closed it
		return response.StatusCode
	}
	return 0
}

func answeredRegion(err error) string {
	if response := httpResponse(err); response != nil { //nolint:bodyclose // the SDK has read and closed it
		if region := response.Header.Get("x-amz-bucket-region"); region != "" {
			return ", " + region
		}
	}
	return ""
}

// answeredSkew is how far this machine's clock is ahead of the store's (negative: behind), by the answer's Date
// header, which is exact to a second.
func answeredSkew(err error) (time.Duration, bool) {
	response := httpResponse(err) //nolint:bodyclose // the SDK has read and closed it
	if response == nil {
		return 0, false
	}
	date, dateErr := http.ParseTime(response.Header.Get("Date"))
	return time.Since(date).Round(time.Second), dateErr == nil
}

func describeSkew(skew time.Duration, known bool) string {
	switch {
	case !known:
		return "the store did not say by how much"
	case skew < 0:
		return fmt.Sprintf("this machine is %v behind the store", -skew)
	default:
		return fmt.Sprintf("this machine is %v ahead of the store", skew)
	}
}
